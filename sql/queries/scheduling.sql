-- The hot statements of admission and of the scheduler: run on held asyncpg connections.

-- name: admit_batch
-- Admit a batch of submissions; see sql/functions/jobs.sql.
SELECT ord, outcome, job_id, tier, state, admitted_at, used_mt, daily_mt, rate_limit, rate_remaining, retry_after_s
FROM admit(:batch)

-- name: try_lead
-- Take the advisory lock LEADER for this session, without waiting.
SELECT pg_try_advisory_lock(7042) AS got

-- name: raise_epoch
-- Become the leader: whoever led before can no longer write.
UPDATE leader SET epoch = epoch + 1, holder = :holder, acquired_at = now() RETURNING epoch

-- name: claim_batch
-- Claim queued jobs for workers.
SELECT c.job_id, c.attempt, c.worker, c.kind, c.model, c.input, c.request_id, c.cost_mt, c.user_id
FROM claim(:epoch, :claims, :lease_s) AS c

-- name: finish_batch
-- End or requeue runs, fenced by their attempt.
SELECT f.job_id, f.state FROM finish(:epoch, :outcomes) AS f

-- name: end_waiting_batch
-- End jobs that wait, with a full refund.
WITH leads AS MATERIALIZED (SELECT assert_leader(:epoch))
SELECT e.job_id, e.state FROM leads, end_waiting(:jobs) AS e

-- name: renew_leases
-- Renew the leases of runs that their workers still report. Locked by id: else it deadlocks with the end of these runs.
WITH leads AS MATERIALIZED (SELECT assert_leader(:epoch)),
     locked AS MATERIALIZED (SELECT j.id FROM leads, jobs j WHERE j.id = ANY (CAST(:job_ids AS uuid[]))
                             ORDER BY j.id FOR UPDATE OF j)
UPDATE jobs j SET lease_expires_at = clock_timestamp() + make_interval(secs => :lease_s)
FROM locked, unnest(CAST(:job_ids AS uuid[]), CAST(:attempts AS integer[])) AS r(job_id, attempt)
WHERE j.id = locked.id AND j.id = r.job_id AND j.attempt = r.attempt AND j.state = 'running'
RETURNING j.id

-- name: promote_due_jobs
-- created → queued for whatever is due.
SELECT promote_due(:epoch) AS promoted

-- name: newest_seq
-- Where the feed stands.
SELECT coalesce(max(seq), 0) AS seq FROM job_events

-- name: live_jobs
-- All jobs that wait or run, for rebuilding the mirror.
SELECT j.id, j.user_id, j.kind, j.model, j.tier, j.state, j.cost_mt, j.attempt, j.failures, j.queued_at, j.started_at,
       j.not_before, j.deadline, j.worker, j.lease_expires_at, j.cancel_requested_at, l.max_running
FROM jobs j JOIN user_limits l ON l.user_id = j.user_id
WHERE j.state IN ('queued', 'running')
ORDER BY j.queued_at, j.id

-- name: served_lately
-- What was served in the last seconds, the newest runs first: who has had how much after a restart.
SELECT j.tier, j.user_id, j.model, a.worker, j.cost_mt,
       extract(epoch FROM a.finished_at - a.started_at)::double precision AS seconds, a.finished_at
FROM attempts a JOIN jobs j ON j.id = a.job_id
WHERE a.finished_at > clock_timestamp() - make_interval(secs => :seconds) AND a.outcome = 'completed'
ORDER BY a.finished_at DESC LIMIT :limit

-- name: jobs_as_they_are
-- What the mirror needs of certain jobs, whatever their state.
SELECT j.id, j.user_id, j.kind, j.model, j.tier, j.state, j.cost_mt, j.attempt, j.failures, j.queued_at, j.started_at,
       j.not_before, j.deadline, j.worker, j.lease_expires_at, j.cancel_requested_at, l.max_running
FROM jobs j JOIN user_limits l ON l.user_id = j.user_id
WHERE j.id = ANY (CAST(:job_ids AS uuid[]))

-- name: feed_after
-- What happened after a position of the feed, with what the mirror needs of a job that became queued.
SELECT e.seq, e.job_id, e.type, e.attempt, coalesce(j.user_id, e.user_id) AS user_id, j.kind, j.model, j.tier, j.state, j.cost_mt, j.failures, j.queued_at,
       j.started_at, j.not_before, j.deadline, j.worker, j.lease_expires_at, j.cancel_requested_at, j.attempt AS job_attempt,
       l.max_running
FROM job_events e
LEFT JOIN jobs j ON j.id = e.job_id
LEFT JOIN user_limits l ON l.user_id = coalesce(j.user_id, e.user_id)
WHERE e.seq > :after AND e.type <> 'output'
ORDER BY e.seq LIMIT :limit

-- name: workers_that_were_lost
-- On how many different workers a job ran when they were lost, the present one counted: the sign of a poison job.
SELECT count(DISTINCT w.worker)::integer AS workers
FROM (SELECT a.worker FROM attempts a WHERE a.job_id = :job_id AND a.error ->> 'code' = 'worker_lost'
      UNION ALL SELECT CAST(:worker AS text)) w

-- name: cancel_asked
-- Whether a job's user has asked for its cancel.
SELECT j.cancel_requested_at IS NOT NULL AS asked FROM jobs j WHERE j.id = :job_id

-- name: run_specs
-- What a worker needs to take up runs that go on, of those that do.
SELECT j.id AS job_id, j.attempt, j.kind, j.model, j.input, j.request_id, j.worker
FROM unnest(CAST(:job_ids AS uuid[]), CAST(:attempts AS integer[])) AS r(job_id, attempt)
JOIN jobs j ON j.id = r.job_id AND j.attempt = r.attempt
WHERE j.state = 'running'
