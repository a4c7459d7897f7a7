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
-- Of some hashes, those that a file of a row still has, or had within the last hour, or that a live job reads.
SELECT h.sha256 FROM unnest(CAST(:hashes AS text[])) AS h(sha256)
WHERE EXISTS (SELECT FROM artifacts a WHERE a.sha256 = h.sha256
              AND (a.deleted_at IS NULL OR a.deleted_at > CAST(:now AS timestamptz) - interval '1 hour'))
   OR EXISTS (SELECT FROM artifacts a WHERE a.thumbnail_sha256 = h.sha256
              AND (a.deleted_at IS NULL OR a.deleted_at > CAST(:now AS timestamptz) - interval '1 hour'))
   OR EXISTS (SELECT FROM uploads u WHERE u.sha256 = h.sha256
              AND (u.deleted_at IS NULL OR u.deleted_at > CAST(:now AS timestamptz) - interval '1 hour'))
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
