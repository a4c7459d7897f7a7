-- What the leader clears away, each a batch of at most :limit rows. Ledger and usage are never touched here.

-- name: prune_idempotency_keys
-- Forget Idempotency-Keys after 24 hours.
DELETE FROM idempotency_keys i
WHERE (i.user_id, i.key) IN (SELECT o.user_id, o.key FROM idempotency_keys o
                             WHERE o.created_at <= CAST(:now AS timestamptz) - interval '24 hours'
                             ORDER BY o.created_at LIMIT :limit FOR UPDATE SKIP LOCKED)

-- name: expire_uploads
-- Uploads past their time are gone; the garbage collection takes their bytes later.
UPDATE uploads u SET deleted_at = CAST(:now AS timestamptz)
WHERE u.id IN (SELECT o.id FROM uploads o WHERE o.deleted_at IS NULL AND o.expires_at <= CAST(:now AS timestamptz)
               ORDER BY o.expires_at LIMIT :limit FOR UPDATE SKIP LOCKED)

-- name: expire_batch_files
-- Files of batches past their time are gone, unless a batch that has not ended reads them.
UPDATE batch_files f SET deleted_at = CAST(:now AS timestamptz)
WHERE f.id IN (SELECT o.id FROM batch_files o
               WHERE o.deleted_at IS NULL AND o.expires_at <= CAST(:now AS timestamptz)
                 AND NOT EXISTS (SELECT FROM batches b WHERE b.input = o.id AND b.ended_at IS NULL)
               ORDER BY o.expires_at LIMIT :limit FOR UPDATE SKIP LOCKED)

-- name: prune_batches
-- Delete batches that ended long ago, with their lines, once none of their jobs is left.
DELETE FROM batches b
WHERE b.id IN (SELECT o.id FROM batches o
               WHERE o.ended_at <= CAST(:now AS timestamptz) - make_interval(days => CAST(:days AS integer))
                 AND NOT EXISTS (SELECT FROM jobs j WHERE j.batch_id = o.id)
               ORDER BY o.ended_at LIMIT :limit FOR UPDATE SKIP LOCKED)

-- name: expire_artifacts
-- Artifacts past their user's retention are gone: the row stays for a while, to say so.
UPDATE artifacts a SET deleted_at = CAST(:now AS timestamptz)
WHERE a.id IN (SELECT o.id FROM jobs j JOIN user_limits l ON l.user_id = j.user_id JOIN artifacts o ON o.job_id = j.id
               WHERE o.deleted_at IS NULL AND j.finished_at <= CAST(:now AS timestamptz) - make_interval(days => l.retention_days)
               ORDER BY j.finished_at LIMIT :limit FOR UPDATE OF o SKIP LOCKED)

-- name: prune_jobs
-- Delete jobs a week past their user's retention, with attempts, artifacts and events; a job that was repeated goes later.
WITH old AS (
    SELECT j.id FROM jobs j JOIN user_limits l ON l.user_id = j.user_id
    WHERE j.finished_at <= CAST(:now AS timestamptz) - make_interval(days => l.retention_days + 7)
      AND NOT EXISTS (SELECT FROM jobs r WHERE r.retried_from = j.id)
    ORDER BY j.finished_at LIMIT :limit FOR UPDATE OF j SKIP LOCKED
), told AS (
    DELETE FROM job_events e USING old WHERE e.job_id = old.id
)
DELETE FROM jobs j USING old WHERE j.id = old.id

-- name: referenced_hashes
-- Of some hashes, those that a file of a row still has, had within the last hour, or has withheld, or a live job reads.
SELECT h.sha256 FROM unnest(CAST(:hashes AS text[])) AS h(sha256)
WHERE EXISTS (SELECT FROM artifacts a WHERE a.sha256 = h.sha256
              AND (a.deleted_at IS NULL OR a.withheld_at IS NOT NULL OR a.deleted_at > CAST(:now AS timestamptz) - interval '1 hour'))
   OR EXISTS (SELECT FROM artifacts a WHERE a.thumbnail_sha256 = h.sha256
              AND (a.deleted_at IS NULL OR a.deleted_at > CAST(:now AS timestamptz) - interval '1 hour'))
   OR EXISTS (SELECT FROM uploads u WHERE u.sha256 = h.sha256
              AND (u.deleted_at IS NULL OR u.deleted_at > CAST(:now AS timestamptz) - interval '1 hour'))
   OR EXISTS (SELECT FROM batch_files f WHERE f.sha256 = h.sha256
              AND (f.deleted_at IS NULL OR f.deleted_at > CAST(:now AS timestamptz) - interval '1 hour'
                   OR EXISTS (SELECT FROM batches b WHERE b.input = f.id AND b.ended_at IS NULL)))
   OR h.sha256 IN (SELECT f.value ->> 'sha256'
                   FROM jobs j CROSS JOIN LATERAL jsonb_each(j.input -> '_files') AS f
                   WHERE j.state IN ('created', 'queued', 'running') AND jsonb_typeof(j.input -> '_files') = 'object')

-- name: live_among
-- Of some jobs, those that have not ended.
SELECT j.id FROM jobs j WHERE j.id = ANY (CAST(:ids AS uuid[])) AND j.finished_at IS NULL

-- name: note_minute
-- Whether the service was up in this minute; once down is down.
INSERT INTO uptime_minutes AS u (minute, ok) VALUES (date_trunc('minute', CAST(:now AS timestamptz)), :ok)
ON CONFLICT (minute) DO UPDATE SET ok = u.ok AND excluded.ok

-- name: prune_deliveries
-- Forget deliveries a month after their end, with their log.
DELETE FROM deliveries d
WHERE d.id IN (SELECT o.id FROM deliveries o WHERE o.ended_at <= CAST(:now AS timestamptz) - interval '30 days'
               ORDER BY o.ended_at LIMIT :limit FOR UPDATE SKIP LOCKED)

-- name: prune_inbox
-- Forget finished updates after three days: no platform sends one again later than after a day.
DELETE FROM inbox i
WHERE (i.bot, i.update_id) IN (SELECT o.bot, o.update_id FROM inbox o
                               WHERE o.ended_at <= CAST(:now AS timestamptz) - interval '3 days'
                               ORDER BY o.ended_at LIMIT :limit FOR UPDATE SKIP LOCKED)

-- name: erase_deleted
-- Erase what jobs have brought that ended after their user had deleted the account; see sql/functions/accounts.sql.
SELECT erase_deleted(CAST(:now AS timestamptz), CAST(:limit AS integer)) AS erased

-- name: prune_link_codes
-- Forget link codes that have expired.
DELETE FROM link_codes c
WHERE c.code_hmac IN (SELECT o.code_hmac FROM link_codes o WHERE o.expires_at <= CAST(:now AS timestamptz)
                      ORDER BY o.expires_at LIMIT :limit FOR UPDATE SKIP LOCKED)

-- name: prune_former_identities
-- Forget identities that left on a day that is over; those of the banned stay.
DELETE FROM former_identities f
WHERE f.identity_hmac IN (SELECT o.identity_hmac FROM former_identities o
                          WHERE o.banned_at IS NULL AND o.day < utc_day(CAST(:now AS timestamptz))
                          ORDER BY o.day LIMIT :limit FOR UPDATE SKIP LOCKED)

-- name: prune_carried_use
-- Forget what was carried into accounts on a day that is over.
DELETE FROM carried_use c
WHERE (c.user_id, c.from_user_id, c.day) IN (SELECT o.user_id, o.from_user_id, o.day FROM carried_use o
                                             WHERE o.day < utc_day(CAST(:now AS timestamptz)) LIMIT :limit FOR UPDATE SKIP LOCKED)

-- name: prune_link_tries
-- Forget the tries of codes of those who have been quiet for an hour: a row without any means the same.
DELETE FROM link_tries t
WHERE t.user_id IN (SELECT o.user_id FROM link_tries o WHERE o.tat <= CAST(:now AS timestamptz) - interval '1 hour'
                    LIMIT :limit FOR UPDATE SKIP LOCKED)
