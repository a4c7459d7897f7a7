-- What ran, for a simulation of the same load: no prompt, no name, no id leaves the database.

-- name: history_jobs
-- The jobs that became due in a stretch of time and ran or still wait, in their order: who (numbered), what, for how long.
SELECT extract(epoch FROM coalesce(j.queued_at, j.created_at))::double precision AS at,
       dense_rank() OVER (ORDER BY j.user_id) AS user_number, j.tier, j.kind, j.model, j.cost_mt, l.max_running,
       (SELECT extract(epoch FROM a.finished_at - a.started_at)::double precision FROM attempts a
        WHERE a.job_id = j.id AND a.outcome = 'completed' ORDER BY a.attempt DESC LIMIT 1) AS seconds,
       (SELECT count(*) FROM attempts a WHERE a.job_id = j.id AND a.outcome IN ('failed', 'requeued'))::integer AS fails
FROM jobs j JOIN user_limits l ON l.user_id = j.user_id
WHERE coalesce(j.queued_at, j.created_at) >= clock_timestamp() - make_interval(secs => :seconds)
  AND j.state IN ('queued', 'running', 'completed', 'failed')
ORDER BY at, j.id
