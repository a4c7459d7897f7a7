-- What must hold of a quiet database, whatever was killed before. Each block answers the rows that break one rule, as
-- (subject, detail); none is what is wanted. $1 is the users of the load, as uuid[].

-- name: not_final
-- Accepted jobs that are in no final state.
SELECT id::text AS subject, state || ' on ' || coalesce(worker, '-') || ', attempt ' || attempt AS detail
FROM jobs WHERE user_id = ANY ($1) AND state NOT IN ('completed', 'failed', 'cancelled', 'expired');

-- name: ended_more_or_less_than_once
-- A final job has one final event, of its own state, and it is its last one.
SELECT j.id::text AS subject, j.state || ' with ' || count(e.seq) || ' final events: ' || coalesce(string_agg(e.type, ','), '')
       AS detail
FROM jobs j LEFT JOIN job_events e ON e.job_id = j.id AND e.type IN ('completed', 'failed', 'cancelled', 'expired')
WHERE j.user_id = ANY ($1) AND j.finished_at IS NOT NULL
GROUP BY j.id HAVING count(*) <> 1 OR min(e.type) IS DISTINCT FROM j.state OR min(e.job_seq) IS DISTINCT FROM j.last_job_seq;

-- name: events_with_a_gap
-- job_seq counts a job's events from 1 without a gap.
SELECT j.id::text AS subject, 'last ' || j.last_job_seq || ', ' || count(e.job_seq) || ' events up to ' || max(e.job_seq)
       AS detail
FROM jobs j LEFT JOIN job_events e ON e.job_id = j.id AND e.job_seq IS NOT NULL
WHERE j.user_id = ANY ($1)
GROUP BY j.id HAVING count(e.job_seq) <> j.last_job_seq OR max(e.job_seq) <> j.last_job_seq OR min(e.job_seq) <> 1;

-- name: charged_more_or_less_than_once
-- One hold of the price, one settlement or refund, and together what the job was charged.
SELECT j.id::text AS subject,
       j.state || ' cost ' || j.cost_mt || ' charged ' || j.charged_mt || ', booked ' || coalesce(sum(l.amount_mt), 0) || ' in '
       || coalesce(string_agg(l.entry || ' ' || l.amount_mt, ', ' ORDER BY l.id), 'no entry') AS detail
FROM jobs j LEFT JOIN token_ledger l ON l.job_id = j.id AND l.entry <> 'grant'
WHERE j.user_id = ANY ($1) AND j.finished_at IS NOT NULL
GROUP BY j.id
HAVING count(*) FILTER (WHERE l.entry = 'hold' AND l.amount_mt = j.cost_mt) <> 1
    OR count(*) FILTER (WHERE l.entry IN ('settlement', 'refund')) <> 1
    OR count(*) <> 2 OR sum(l.amount_mt) <> j.charged_mt
    OR (j.state IN ('failed', 'expired') AND j.charged_mt <> 0);

-- name: ledger_is_not_usage
-- usage_daily is the sum of the ledger, by user, day and kind.
SELECT user_id::text AS subject, day || ' ' || kind || ': ledger ' || coalesce(l.s, 0) || ', usage_daily ' || coalesce(u.s, 0)
       AS detail
FROM (SELECT user_id, day, kind, sum(amount_mt) AS s FROM token_ledger GROUP BY 1, 2, 3) l
FULL JOIN (SELECT user_id, day, kind, used_mt AS s FROM usage_daily) u USING (user_id, day, kind)
WHERE coalesce(l.s, 0) <> coalesce(u.s, 0);

-- name: usage_is_not_jobs
-- usage_daily is what the jobs say: what final ones were charged and waiting ones hold. Grants and what belongs to no job
-- are of kind 'account'.
SELECT user_id::text AS subject, day || ' ' || kind || ': jobs ' || coalesce(j.s, 0) || ', usage_daily ' || coalesce(u.s, 0)
       AS detail
FROM (SELECT user_id, day, kind, sum(coalesce(charged_mt, cost_mt)) AS s FROM jobs WHERE user_id = ANY ($1) GROUP BY 1, 2, 3) j
FULL JOIN (SELECT user_id, day, kind, used_mt AS s FROM usage_daily WHERE user_id = ANY ($1) AND kind <> 'account') u
    USING (user_id, day, kind)
WHERE coalesce(j.s, 0) <> coalesce(u.s, 0);

-- name: user_state_is_not_jobs
-- The hot rows count what waits and runs, and hold what was used today.
SELECT s.user_id::text AS subject,
       'queued ' || s.queued || ' of ' || j.queued || ', running ' || s.running || ' of ' || j.running || ', used ' || s.used_mt
       || ' of ' || u.used_mt AS detail
FROM user_state s
CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE state IN ('created', 'queued')) AS queued,
                           count(*) FILTER (WHERE state = 'running') AS running FROM jobs WHERE user_id = s.user_id) j
CROSS JOIN LATERAL (SELECT coalesce(sum(used_mt), 0) AS used_mt FROM usage_daily
                    WHERE user_id = s.user_id AND day = s.day) u
WHERE s.user_id = ANY ($1) AND (s.queued <> j.queued OR s.running <> j.running OR s.used_mt <> u.used_mt);

-- name: attempts_left_open
-- Each run of a final job has ended, they are as many as were claimed, and at most one completed.
SELECT j.id::text AS subject, j.state || ' attempt ' || j.attempt || ': '
       || coalesce(string_agg(a.attempt || ' ' || coalesce(a.outcome, 'open'), ', ' ORDER BY a.attempt), 'none') AS detail
FROM jobs j LEFT JOIN attempts a ON a.job_id = j.id
WHERE j.user_id = ANY ($1) AND j.finished_at IS NOT NULL
GROUP BY j.id
HAVING count(a.attempt) <> j.attempt OR count(*) FILTER (WHERE a.attempt IS NOT NULL AND a.outcome IS NULL) > 0
    OR count(*) FILTER (WHERE a.outcome = 'completed') <> CASE WHEN j.state = 'completed' THEN 1 ELSE 0 END;

-- name: completed_without_files
-- A completed job of a kind that makes files has some.
SELECT j.id::text AS subject, j.kind AS detail
FROM jobs j WHERE j.user_id = ANY ($1) AND j.state = 'completed' AND j.kind IN ('image', 'video', 'speech', 'music')
  AND NOT EXISTS (SELECT FROM artifacts a WHERE a.job_id = j.id);

-- name: cap_exceeded
-- No user ever ran more at a time than the plan allows: runs of one user that overlapped, by their attempts.
SELECT u.id::text AS subject, u.plan_id || ' ran ' || max(o.n) || ' at once' AS detail
FROM users u JOIN plans p ON p.id = u.plan_id
CROSS JOIN LATERAL (
    SELECT sum(t.d) OVER (ORDER BY t.at, t.d) AS n FROM (
        SELECT a.started_at AS at, 1 AS d FROM attempts a JOIN jobs j ON j.id = a.job_id WHERE j.user_id = u.id
        UNION ALL
        SELECT a.finished_at, -1 FROM attempts a JOIN jobs j ON j.id = a.job_id
        WHERE j.user_id = u.id AND a.finished_at IS NOT NULL) t) o
WHERE u.id = ANY ($1) GROUP BY u.id, u.plan_id, p.max_running HAVING max(o.n) > p.max_running;
