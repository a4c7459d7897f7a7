-- Batches and their files.

-- name: insert_batch_file
-- Note a file whose bytes are in the artifact store.
INSERT INTO batch_files (id, user_id, purpose, filename, sha256, bytes, expires_at)
VALUES (:id, :user_id, 'batch', :filename, :sha256, :bytes, :expires_at)
RETURNING id, purpose, filename, sha256, bytes, created_at, expires_at

-- name: get_batch_file
-- A user's file of a batch, while it is there.
SELECT f.id, f.purpose, f.filename, f.sha256, f.bytes, f.created_at, f.expires_at
FROM batch_files f WHERE f.id = :id AND f.user_id = :user_id AND f.deleted_at IS NULL AND f.expires_at > now()

-- name: list_batch_files
-- A page of a user's files of batches, by age.
SELECT f.id, f.purpose, f.filename, f.sha256, f.bytes, f.created_at, f.expires_at
FROM batch_files f
WHERE f.user_id = :user_id AND f.deleted_at IS NULL AND f.expires_at > now()
  AND (CAST(:purpose AS text) IS NULL OR f.purpose = CAST(:purpose AS text))
  AND (CAST(:after AS uuid) IS NULL
       OR CASE WHEN CAST(:ascending AS boolean) THEN f.id > CAST(:after AS uuid) ELSE f.id < CAST(:after AS uuid) END)
ORDER BY CASE WHEN CAST(:ascending AS boolean) THEN f.id END, f.id DESC
LIMIT :limit

-- name: delete_batch_file
-- Delete a file, unless a batch that has not ended reads it.
UPDATE batch_files f SET deleted_at = now()
WHERE f.id = :id AND f.user_id = :user_id AND f.deleted_at IS NULL
  AND NOT EXISTS (SELECT FROM batches b WHERE b.input = f.id AND b.ended_at IS NULL)

-- name: insert_batch
-- A new batch, told to whoever expands it; nothing where its Idempotency-Key was used before.
WITH made AS (
    INSERT INTO batches (id, user_id, api_key_id, shape, endpoint, state, input, completion_window, expires_at, metadata, total,
                         errors, ended_at, ends_as, idempotency_key, body_sha256)
    VALUES (:id, :user_id, :api_key_id, :shape, :endpoint, :state, :input, :completion_window, :expires_at,
            CAST(:metadata AS jsonb), :total, CAST(:errors AS jsonb), :ended_at, :ends_as, :idempotency_key, :body_sha256)
    ON CONFLICT ON CONSTRAINT batches_idempotency DO NOTHING
    RETURNING id
)
SELECT m.id, pg_notify('tessera_batches', '') AS told FROM made m

-- name: batch_of_key
-- The batch that an Idempotency-Key has made.
SELECT b.id, b.body_sha256 FROM batches b WHERE b.user_id = :user_id AND b.idempotency_key = :idempotency_key

-- name: get_batch
-- A user's batch.
SELECT b.id, b.user_id, b.shape, b.endpoint, b.state, b.input, b.completion_window, b.expires_at, b.metadata, b.total,
       b.next_line, b.pause_reason, b.paused_until, b.ends_as, b.cancelling_at, b.errors, b.output_file_id, b.error_file_id,
       b.counts, b.created_at, b.ended_at
FROM batches b WHERE b.id = :id AND b.user_id = :user_id

-- name: list_batches
-- A page of a user's batches, the newest first.
SELECT b.id, b.user_id, b.shape, b.endpoint, b.state, b.input, b.completion_window, b.expires_at, b.metadata, b.total,
       b.next_line, b.pause_reason, b.paused_until, b.ends_as, b.cancelling_at, b.errors, b.output_file_id, b.error_file_id,
       b.counts, b.created_at, b.ended_at
FROM batches b
WHERE b.user_id = :user_id AND b.id < coalesce(CAST(:before AS uuid), 'ffffffff-ffff-ffff-ffff-ffffffffffff')
  AND (CAST(:shape AS text) IS NULL OR b.shape = CAST(:shape AS text))
ORDER BY b.id DESC LIMIT :limit

-- name: count_live_batches
-- How many batches of a user have not ended.
SELECT count(*)::integer AS live FROM batches b WHERE b.user_id = :user_id AND b.ended_at IS NULL

-- name: count_batch
-- What became of the lines of a batch so far.
SELECT count(l.line)::integer AS expanded,
       (count(l.line) FILTER (WHERE l.job_id IS NULL))::integer AS refused,
       (count(j.id) FILTER (WHERE j.state IN ('created', 'queued')))::integer AS queued,
       (count(j.id) FILTER (WHERE j.state = 'running'))::integer AS running,
       (count(j.id) FILTER (WHERE j.state = 'completed'))::integer AS completed,
       (count(j.id) FILTER (WHERE j.state IN ('failed', 'expired')))::integer AS failed,
       (count(j.id) FILTER (WHERE j.state = 'cancelled'))::integer AS cancelled,
       coalesce(sum(j.charged_mt), 0)::bigint AS charged_mt
FROM batch_lines l LEFT JOIN jobs j ON j.id = l.job_id
WHERE l.batch_id = :batch_id

-- name: give_up_batch
-- End a batch before its time; see sql/functions/batches.sql.
SELECT give_up_batch(:id, :user_id, :ends_as, CAST(:errors AS jsonb)) AS state

-- name: lead_batches
-- Become the one that expands batches, unless another is.
SELECT pg_try_advisory_lock(7043) AS leads

-- name: due_batches
-- Batches with lines to be expanded now, those first that have waited longest.
SELECT b.id, b.user_id, b.api_key_id, b.shape, b.endpoint, b.state, b.total, b.next_line, b.next_byte, b.expires_at, f.sha256,
       f.bytes
FROM batches b JOIN batch_files f ON f.id = b.input
WHERE b.ended_at IS NULL AND b.state IN ('expanding', 'paused') AND b.next_try_at <= now() AND b.expires_at > now()
ORDER BY b.next_try_at LIMIT :limit

-- name: overdue_batches
-- Batches past their time.
SELECT b.id FROM batches b
WHERE b.ended_at IS NULL AND b.state <> 'cancelling' AND b.expires_at <= now() ORDER BY b.expires_at LIMIT :limit

-- name: settled_batches
-- Batches of which all jobs have ended.
SELECT b.id, b.user_id, b.shape, b.endpoint, b.state, b.ends_as, b.total, b.next_line, b.next_byte, f.sha256, f.bytes
FROM batches b JOIN batch_files f ON f.id = b.input
WHERE b.ended_at IS NULL AND b.state IN ('running', 'cancelling') AND b.next_try_at <= now()
  AND NOT EXISTS (SELECT FROM jobs j WHERE j.batch_id = b.id AND j.finished_at IS NULL)
ORDER BY b.created_at LIMIT :limit

-- name: postpone_batch
-- Try a batch again later.
UPDATE batches b SET next_try_at = now() + make_interval(secs => CAST(:seconds AS double precision)) WHERE b.id = :id

-- name: batch_owner
-- Who pays for a batch, by which key, and whether that still may be.
SELECT u.id AS user_id, u.name, u.banned_at, u.ban_reason, u.deleted_at, k.id AS key_id, k.revoked_at, k.daily_cap_mt,
       k.expires_at, l.plan_id, l.tier, l.daily_mt, l.submissions_per_min, l.requests_per_min, l.max_queued, l.max_running,
       l.max_image_px, l.max_video_s, l.retention_days
FROM batches b JOIN users u ON u.id = b.user_id JOIN user_limits l ON l.user_id = b.user_id
JOIN api_keys k ON k.id = b.api_key_id
WHERE b.id = :id

-- name: expand_batch
-- Make jobs of the next lines; see sql/functions/batches.sql.
SELECT e.outcome, e.taken, e.jobs, e.retry_after_s
FROM expand_batch(:id, :from_line, CAST(:rows AS jsonb), CAST(:is_end AS boolean)) AS e

-- name: batch_lines_after
-- The next of the lines that were read, in order.
SELECT l.line, l.custom_id, l.job_id, l.error, l.options
FROM batch_lines l WHERE l.batch_id = :batch_id AND l.line > :line ORDER BY l.line LIMIT :limit

-- name: jobs_of_lines
-- Jobs of a batch with their artifacts, as get_job has them.
SELECT j.id, j.kind, j.model, j.tier, j.state, j.input, j.metadata, j.output, j.error, j.cost_mt, j.charged_mt, j.attempt,
       j.not_before, j.deadline, j.cancel_requested_at, j.retried_from, j.webhook, j.moderation, j.created_at, j.started_at, j.finished_at,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('id', a.id, 'media_type', a.media_type, 'bytes', a.bytes,
                                                     'width', a.width, 'height', a.height, 'duration_s', a.duration_s,
                                                     'thumbnail_sha256', a.thumbnail_sha256) ORDER BY a.index), '[]')
        FROM artifacts a WHERE a.job_id = j.id AND a.deleted_at IS NULL AND a.withheld_at IS NULL) AS artifacts
FROM jobs j WHERE j.id = ANY (CAST(:ids AS uuid[])) AND j.user_id = :user_id

-- name: end_batch
-- The end of a batch, with its files; see sql/functions/batches.sql.
SELECT end_batch(:id, CAST(:files AS jsonb), CAST(:counts AS jsonb)) AS ended
