-- What Postgres knows of why a job waits, where it runs, or how it ended; the rest only the scheduler can say.

-- name: explain_job
-- A user's job with the last failure of its runs, and what its user has waiting and running beside the caps.
SELECT j.id, j.kind, j.model, j.tier, j.state, j.attempt, j.failures, j.worker, j.error, j.cost_mt, j.charged_mt,
       j.not_before, j.deadline, j.cancel_requested_at, j.created_at, j.queued_at, j.started_at, j.finished_at,
       s.queued AS queued_of_user, s.running AS running_of_user, l.max_queued, l.max_running,
       p.kind IS NOT NULL AS paused, p.message AS pause_message, f.attempt AS failed_attempt, f.worker AS failed_worker,
       f.error AS failed_error, f.finished_at AS failed_at, clock_timestamp() AS as_of
FROM jobs j
JOIN user_state s ON s.user_id = j.user_id
JOIN user_limits l ON l.user_id = j.user_id
LEFT JOIN queue_pauses p ON p.kind = j.kind
LEFT JOIN LATERAL (SELECT a.attempt, a.worker, a.error, a.finished_at FROM attempts a
                   WHERE a.job_id = j.id AND a.error IS NOT NULL ORDER BY a.attempt DESC LIMIT 1) f ON true
WHERE j.id = :id AND j.user_id = :user_id
