-- What an operator sees of everybody's jobs, and does with one of them.

-- name: find_jobs
-- A page of all jobs, the newest first. `low` and `high` bound the ids: of a prefix, and of the page.
SELECT j.id, j.user_id, u.name AS user_name, j.kind, j.model, j.tier, j.state, j.cost_mt, j.charged_mt, j.attempt, j.failures,
       j.worker, j.error, j.created_at, j.queued_at, j.started_at, j.finished_at, j.cancel_requested_at
FROM jobs j JOIN users u ON u.id = j.user_id
WHERE j.id >= :low AND j.id <= :high
  AND (CAST(:before AS uuid) IS NULL OR j.id < CAST(:before AS uuid))
  AND (CAST(:user_id AS uuid) IS NULL OR j.user_id = CAST(:user_id AS uuid))
  AND (CAST(:states AS text[]) IS NULL OR j.state = ANY (CAST(:states AS text[])))
  AND (CAST(:kind AS text) IS NULL OR j.kind = CAST(:kind AS text))
  AND (CAST(:worker AS text) IS NULL OR j.worker = CAST(:worker AS text))
  AND (CAST(:created_after AS timestamptz) IS NULL OR j.created_at > CAST(:created_after AS timestamptz))
  AND (CAST(:created_before AS timestamptz) IS NULL OR j.created_at < CAST(:created_before AS timestamptz))
ORDER BY j.id DESC LIMIT :limit

-- name: requeue_job
-- Put a running job back into the queue; see sql/functions/operators.sql.
SELECT requeue_job(:job_id, :reason, :actor) AS state

-- name: fail_job
-- End a job as failed, refunded; see sql/functions/operators.sql.
SELECT f.state, f.done, f.refunded_mt FROM fail_job(:job_id, :reason, :actor) AS f
