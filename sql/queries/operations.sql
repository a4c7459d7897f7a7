-- What an operator asks, one query for each section of `tessera report`. :at is now, :days how far back it looks.
-- Columns say their unit by their ending: _mt millitokens, _s seconds, _cents, _bytes, _percent.
-- What must hold for longer than a plan's retention is read from the ledger and usage_daily, which are never pruned.

-- name: active_users
-- People who submitted something in the last day, week and month.
SELECT count(DISTINCT u.user_id) FILTER (WHERE u.day = utc_day(CAST(:at AS timestamptz)))::integer AS today,
       count(DISTINCT u.user_id) FILTER (WHERE u.day > utc_day(CAST(:at AS timestamptz)) - 7)::integer AS week,
       count(DISTINCT u.user_id)::integer AS month,
       (SELECT count(*)::integer FROM users WHERE deleted_at IS NULL) AS users
FROM usage_daily u WHERE u.jobs > 0 AND u.day > utc_day(CAST(:at AS timestamptz)) - 30

-- name: new_users
-- Sign-ups by day.
SELECT utc_day(u.created_at) AS day, count(*)::integer AS users
FROM users u WHERE u.created_at > CAST(:at AS timestamptz) - make_interval(days => CAST(:days AS integer))
GROUP BY 1 ORDER BY 1 DESC

-- name: completed_jobs
-- Completed jobs by day and kind, and what they were charged.
SELECT utc_day(s.created_at) AS day, s.kind, count(*)::integer AS jobs, sum(h.amount_mt + s.amount_mt)::bigint AS charged_mt
FROM token_ledger s JOIN token_ledger h ON h.job_id = s.job_id AND h.entry = 'hold'
WHERE s.entry = 'settlement' AND s.reason NOT IN ('cancelled while running', 'content_withheld')
  AND s.created_at > CAST(:at AS timestamptz) - make_interval(days => CAST(:days AS integer))
GROUP BY 1, 2 ORDER BY 1 DESC, 2

-- name: kept_jobs
-- Where the jobs stand that are still kept.
SELECT j.kind, j.state, count(*)::integer AS jobs, max(j.created_at) AS newest
FROM jobs j GROUP BY j.kind, j.state ORDER BY j.kind, j.state

-- name: failure_rate
-- Failed attempts by worker and code, as a part of all attempts of that worker.
WITH ended AS (
    SELECT a.worker, a.outcome, coalesce(a.error ->> 'code', '') AS code FROM attempts a
    WHERE a.finished_at > CAST(:at AS timestamptz) - make_interval(days => CAST(:days AS integer))
), totals AS (
    SELECT e.worker, count(*) AS attempts FROM ended e GROUP BY e.worker
)
SELECT t.worker, e.code, count(e.worker)::integer AS failed, t.attempts::integer AS attempts,
       (100.0 * count(e.worker) / t.attempts)::double precision AS failed_percent
FROM totals t LEFT JOIN ended e ON e.worker = t.worker AND e.code <> '' AND e.outcome IN ('failed', 'requeued')
GROUP BY t.worker, e.code, t.attempts ORDER BY 5 DESC, 1, 2

-- name: conversion
-- Of those who signed up in a month: how many have ever paid, and how many are on a paid plan now.
SELECT to_char(u.created_at AT TIME ZONE 'utc', 'YYYY-MM') AS month, count(*)::integer AS users,
       count(*) FILTER (WHERE g.paid)::integer AS ever_paid,
       count(*) FILTER (WHERE p.price_usd_cents > 0)::integer AS paid_now,
       (100.0 * count(*) FILTER (WHERE g.paid) / count(*))::double precision AS conversion_percent
FROM users u JOIN plans p ON p.id = u.plan_id
CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM grants g WHERE g.user_id = u.id AND g.amount_usd_cents > 0) AS paid) g
WHERE NOT u.is_admin
GROUP BY 1 ORDER BY 1 DESC

-- name: revenue
-- Payments by month and plan.
SELECT to_char(g.starts_at AT TIME ZONE 'utc', 'YYYY-MM') AS month, g.plan_id AS plan, count(*)::integer AS payments,
       count(DISTINCT g.user_id)::integer AS payers, sum(g.amount_usd_cents)::bigint AS revenue_cents
FROM grants g WHERE g.amount_usd_cents <> 0
GROUP BY 1, 2 ORDER BY 1 DESC, 2

-- name: subscriptions
-- Users by plan, and what the paid plans bring in a month.
SELECT p.id AS plan, count(u.id)::integer AS users, (count(u.id) * p.price_usd_cents)::bigint AS monthly_cents
FROM plans p LEFT JOIN users u ON u.plan_id = p.id AND u.deleted_at IS NULL AND NOT u.is_admin
GROUP BY p.id ORDER BY p.position

-- name: uptime
-- Minutes in which a leader and its workers were up, by day; a minute without a row was down.
SELECT utc_day(m.minute) AS day, count(*) FILTER (WHERE coalesce(n.ok, false))::integer AS up_minutes,
       count(*)::integer AS minutes,
       (100.0 * count(*) FILTER (WHERE coalesce(n.ok, false)) / count(*))::double precision AS up_percent
FROM generate_series(
         greatest(date_trunc('minute', CAST(:at AS timestamptz)) - make_interval(days => CAST(:days AS integer)),
                  (SELECT min(minute) FROM uptime_minutes)),
         date_trunc('minute', CAST(:at AS timestamptz)) - interval '1 minute', interval '1 minute') AS m(minute)
LEFT JOIN uptime_minutes n ON n.minute = m.minute
GROUP BY 1 ORDER BY 1 DESC

-- name: queue_by_tier
-- How many jobs of each tier wait, and how long the oldest has waited.
SELECT j.tier, count(*) FILTER (WHERE j.state = 'queued')::integer AS queued,
       count(*) FILTER (WHERE j.state = 'created')::integer AS for_later,
       count(*) FILTER (WHERE j.state = 'running')::integer AS running,
       extract(epoch FROM CAST(:at AS timestamptz) - min(j.queued_at) FILTER (WHERE j.state = 'queued'))::double precision
           AS oldest_s
FROM jobs j WHERE j.state IN ('created', 'queued', 'running')
GROUP BY j.tier ORDER BY array_position(ARRAY['pro', 'starter', 'free', 'batch'], j.tier)

-- name: queue_by_model
-- How many jobs of each model wait and what they hold.
SELECT j.model, count(*)::integer AS queued, sum(j.cost_mt)::bigint AS held_mt,
       extract(epoch FROM CAST(:at AS timestamptz) - min(j.queued_at))::double precision AS oldest_s
FROM jobs j WHERE j.state = 'queued' GROUP BY j.model ORDER BY 2 DESC, 1

-- name: timings
-- How long completed jobs waited and ran, by kind: the middle one, and one in 20 and in 100 took longer.
SELECT t.kind, count(*)::integer AS jobs,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY t.wait) AS wait_p50_s,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY t.wait) AS wait_p95_s,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY t.wait) AS wait_p99_s,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY t.run) AS run_p50_s,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY t.run) AS run_p95_s,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY t.run) AS run_p99_s
FROM (SELECT j.kind, extract(epoch FROM j.started_at - j.queued_at)::double precision AS wait,
             extract(epoch FROM j.finished_at - j.started_at)::double precision AS run
      FROM jobs j
      WHERE j.state = 'completed' AND j.finished_at > CAST(:at AS timestamptz) - make_interval(days => CAST(:days AS integer))
     ) t
GROUP BY t.kind ORDER BY t.kind

-- name: tokens_by_plan
-- What the users of each plan used, by kind.
SELECT u.plan_id AS plan, d.kind, sum(d.jobs)::integer AS jobs, sum(d.used_mt)::bigint AS used_mt
FROM usage_daily d JOIN users u ON u.id = d.user_id
WHERE d.day > utc_day(CAST(:at AS timestamptz)) - CAST(:days AS integer)
GROUP BY 1, 2 ORDER BY 1, 4 DESC

-- name: top_users
-- Who used most today, and of how much.
SELECT u.id AS user_id, u.name, u.plan_id AS plan, s.used_mt, l.daily_mt,
       (100.0 * s.used_mt / nullif(l.daily_mt, 0))::double precision AS used_percent, s.queued, s.running
FROM user_state s JOIN users u ON u.id = s.user_id JOIN user_limits l ON l.user_id = s.user_id
WHERE s.day = utc_day(CAST(:at AS timestamptz)) AND s.used_mt > 0
ORDER BY s.used_mt DESC, u.id LIMIT 20

-- name: quota_exhaustion
-- Of those who used something today: how many are near the end of their quota, by plan.
SELECT u.plan_id AS plan, count(*)::integer AS users,
       count(*) FILTER (WHERE s.used_mt >= 0.8 * l.daily_mt)::integer AS over_80_percent,
       count(*) FILTER (WHERE s.used_mt >= 0.99 * l.daily_mt)::integer AS exhausted
FROM user_state s JOIN users u ON u.id = s.user_id JOIN user_limits l ON l.user_id = s.user_id
WHERE s.day = utc_day(CAST(:at AS timestamptz)) AND s.used_mt > 0
GROUP BY u.plan_id ORDER BY u.plan_id

-- name: refunds
-- What was given back, and why.
SELECT l.entry, l.reason, count(*)::integer AS entries, sum(-l.amount_mt)::bigint AS returned_mt
FROM token_ledger l
WHERE l.amount_mt < 0 AND l.created_at > CAST(:at AS timestamptz) - make_interval(days => CAST(:days AS integer))
GROUP BY l.entry, l.reason ORDER BY 4 DESC, 1, 2

-- name: storage
-- What the artifact store keeps for rows, by kind; equal files are stored once and counted by their rows.
SELECT s.kind, count(*)::integer AS files, sum(s.bytes)::bigint AS total_bytes, max(s.bytes)::bigint AS largest_bytes
FROM (SELECT j.kind, a.bytes FROM artifacts a JOIN jobs j ON j.id = a.job_id WHERE a.deleted_at IS NULL
      UNION ALL SELECT 'upload', u.bytes FROM uploads u WHERE u.deleted_at IS NULL) s
GROUP BY s.kind ORDER BY 3 DESC

-- name: mismatches
-- Where ledger, usage_daily and the hot rows disagree: there must be none.
SELECT m.user_id, m.day, m.kind, m.ledger_mt, m.projected_mt, m.place
FROM (SELECT coalesce(l.user_id, u.user_id) AS user_id, coalesce(l.day, u.day) AS day, coalesce(l.kind, u.kind) AS kind,
             coalesce(l.sum_mt, 0)::bigint AS ledger_mt, u.used_mt AS projected_mt, 'usage_daily' AS place
      FROM (SELECT user_id, day, kind, sum(amount_mt) AS sum_mt FROM token_ledger GROUP BY user_id, day, kind) l
      FULL JOIN usage_daily u ON u.user_id = l.user_id AND u.day = l.day AND u.kind = l.kind
      WHERE l.sum_mt IS DISTINCT FROM u.used_mt
      UNION ALL
      SELECT s.user_id, s.day, 'all', coalesce(l.sum_mt, 0)::bigint, s.used_mt, 'user_state'
      FROM user_state s
      LEFT JOIN LATERAL (SELECT sum(t.amount_mt) AS sum_mt FROM token_ledger t
                         WHERE t.user_id = s.user_id AND t.day = s.day) l ON true
      -- A hot row of an earlier day is void: a late refund of that day does not touch it.
      WHERE s.day = utc_day(CAST(:at AS timestamptz)) AND s.used_mt <> coalesce(l.sum_mt, 0)) m
ORDER BY m.day DESC, m.user_id, m.kind LIMIT 100

-- name: overdue_leases
-- Running jobs whose lease has run out: the scheduler takes them back in seconds, so these hint at trouble.
SELECT j.id AS job_id, j.worker, j.attempt,
       extract(epoch FROM CAST(:at AS timestamptz) - j.lease_expires_at)::double precision AS overdue_s
FROM jobs j WHERE j.state = 'running' AND j.lease_expires_at < CAST(:at AS timestamptz)
ORDER BY j.lease_expires_at LIMIT 100

-- name: delivery_backlog
-- Webhooks and chat messages that still have to be brought, or were given up.
SELECT d.channel, d.state, count(*)::integer AS deliveries, max(d.tries) AS most_tries,
       extract(epoch FROM CAST(:at AS timestamptz) - min(d.created_at))::double precision AS oldest_s
FROM deliveries d WHERE d.state <> 'delivered' GROUP BY d.channel, d.state ORDER BY d.channel, d.state

-- name: table_sizes
-- The largest tables, and how much of them is dead rows that autovacuum has yet to clear.
SELECT t.relname AS table_name, t.n_live_tup AS live_rows, t.n_dead_tup AS dead_rows,
       (100.0 * t.n_dead_tup / nullif(t.n_live_tup + t.n_dead_tup, 0))::double precision AS dead_percent,
       pg_table_size(t.relid) AS table_bytes, pg_indexes_size(t.relid) AS index_bytes, t.last_autovacuum
FROM pg_stat_user_tables t WHERE t.schemaname = 'public' ORDER BY pg_total_relation_size(t.relid) DESC, 1 LIMIT 25
