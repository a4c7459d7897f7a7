-- Sample data for a demonstration: 60 users and what they did in the last 30 days, with balanced books. Chosen by hashes,
-- so that it is always alike. Safe to repeat: a database that holds it already is left as it is. Nothing of it is queued
-- or running, so no worker is set to work; the results have no files.

CREATE TEMPORARY TABLE demo_users ON COMMIT DROP AS
SELECT n, now() - make_interval(days => 1 + (n * 37) % 70, hours => (n * 7) % 24) AS created_at,
       CASE WHEN n % 10 = 0 THEN 'pro' WHEN n % 4 = 0 THEN 'starter' ELSE 'free' END AS plan_id
FROM generate_series(1, 60) n
WHERE NOT EXISTS (SELECT FROM users WHERE name LIKE 'demo-%');
ALTER TABLE demo_users ADD COLUMN id uuid;
-- UUIDv7 of that time: 48 bits of milliseconds, the version, and a hash.
UPDATE demo_users SET id = (lpad(to_hex((extract(epoch FROM created_at) * 1000)::bigint), 12, '0')
                            || '7' || substr(md5('user' || n), 1, 3) || '8' || substr(md5('user' || n), 4, 15))::uuid;

INSERT INTO users (id, name, plan_id, created_at) SELECT id, 'demo-' || lpad(n::text, 2, '0'), plan_id, created_at FROM demo_users;

INSERT INTO grants (id, user_id, plan_id, source, reference, amount_usd_cents, starts_at, ends_at)
SELECT gen_random_uuid(), u.id, u.plan_id, CASE WHEN u.n % 8 = 0 THEN 'telegram_stars' ELSE 'stripe' END,
       'demo-' || u.n || '-' || m, p.price_usd_cents, s.at, s.at + interval '30 days'
FROM demo_users u JOIN plans p ON p.id = u.plan_id
CROSS JOIN generate_series(0, 2) m CROSS JOIN LATERAL (SELECT u.created_at + m * interval '30 days' AS at) s
WHERE p.price_usd_cents > 0 AND s.at < now();

-- A number between 0 and 1 for each user, day, place in the day and purpose.
CREATE TEMPORARY TABLE demo_jobs ON COMMIT DROP AS
SELECT u.id AS user_id, u.plan_id, k.kind, u.n, d.d, i.i,
       now() - make_interval(days => d.d) - make_interval(secs => 900 + 80000 * r.hour) AS created_at,
       k.cost_mt, k.run_s * (0.6 + r.run) AS run_s, 0.4 + 20 * r.wait * r.wait * r.wait AS wait_s,
       CASE WHEN r.end < 0.90 THEN 'completed' WHEN r.end < 0.94 THEN 'failed' WHEN r.end < 0.98 THEN 'cancelled'
            ELSE 'expired' END AS state
FROM demo_users u
CROSS JOIN generate_series(0, 29) AS d(d)
CROSS JOIN generate_series(1, 6) AS i(i)
CROSS JOIN LATERAL (
    SELECT ('x' || substr(h, 1, 6))::bit(24)::integer / 16777216.0 AS active, ('x' || substr(h, 7, 6))::bit(24)::integer / 16777216.0 AS hour,
           ('x' || substr(h, 13, 4))::bit(16)::integer / 65536.0 AS run, ('x' || substr(h, 17, 4))::bit(16)::integer / 65536.0 AS wait,
           ('x' || substr(h, 21, 6))::bit(24)::integer / 16777216.0 AS end, ('x' || substr(h, 27, 4))::bit(16)::integer % 12 AS pick
    FROM md5(u.n || '/' || d.d || '/' || i.i) h) r
JOIN (VALUES (0, 5, 'image', 1000, 4), (6, 8, 'text', 200, 3), (9, 9, 'video', 3000, 40), (10, 10, 'speech', 400, 2),
             (11, 11, 'music', 1000, 12)) AS k(low, high, kind, cost_mt, run_s) ON r.pick BETWEEN k.low AND k.high
WHERE r.active < 0.45;
DELETE FROM demo_jobs j USING demo_users u WHERE u.id = j.user_id AND j.created_at < u.created_at;
ALTER TABLE demo_jobs ADD COLUMN id uuid, ADD COLUMN charged_mt bigint, ADD COLUMN started_at timestamptz, ADD COLUMN ended_at timestamptz;
UPDATE demo_jobs
SET id = (lpad(to_hex((extract(epoch FROM created_at) * 1000)::bigint), 12, '0') || '7'
          || substr(md5(user_id || '/' || d || '/' || i), 1, 3) || '8' || substr(md5(user_id || '/' || d || '/' || i), 4, 15))::uuid,
    charged_mt = CASE state WHEN 'completed' THEN cost_mt WHEN 'cancelled' THEN cost_mt / 4 ELSE 0 END,
    started_at = CASE WHEN state <> 'expired' THEN created_at + make_interval(secs => wait_s) END,
    ended_at = created_at + make_interval(secs => wait_s + CASE WHEN state <> 'expired' THEN run_s ELSE 0 END);

INSERT INTO jobs (id, user_id, kind, model, tier, state, input, error, day, cost_mt, charged_mt, attempt, last_job_seq, created_at,
                  queued_at, started_at, finished_at, cancel_requested_at)
SELECT j.id, j.user_id, j.kind, 'preview-' || j.kind, p.tier, j.state,
       CASE j.kind WHEN 'speech' THEN '{"text": "Good morning."}' ELSE '{"prompt": "a lighthouse in a storm"}' END::jsonb,
       CASE j.state WHEN 'failed' THEN '{"code": "stuck", "message": "The run made no progress.", "retryable": true}'
                    WHEN 'expired' THEN '{"code": "deadline_passed", "message": "The deadline passed.", "retryable": true}' END::jsonb,
       utc_day(j.created_at), j.cost_mt, j.charged_mt, CASE WHEN j.started_at IS NULL THEN 0 ELSE 1 END,
       CASE WHEN j.started_at IS NULL THEN 2 ELSE 3 END, j.created_at, j.created_at, j.started_at, j.ended_at,
       CASE j.state WHEN 'cancelled' THEN j.ended_at END
FROM demo_jobs j JOIN plans p ON p.id = j.plan_id ORDER BY j.id;

INSERT INTO attempts (job_id, attempt, worker, started_at, finished_at, outcome, error)
SELECT j.id, 1, CASE WHEN j.i % 3 = 0 THEN 'preview-b' ELSE 'preview-a' END, j.started_at, j.ended_at, j.state,
       CASE j.state WHEN 'failed' THEN '{"code": "stuck"}'::jsonb END
FROM demo_jobs j WHERE j.started_at IS NOT NULL;

-- No bytes come with the sample: its files are past their retention.
INSERT INTO artifacts (id, job_id, user_id, index, sha256, media_type, bytes, created_at, deleted_at)
SELECT gen_random_uuid(), j.id, j.user_id, 0, encode(sha256(convert_to(j.id::text, 'UTF8')), 'hex'), 'application/octet-stream', 1,
       j.ended_at, j.ended_at
FROM demo_jobs j WHERE j.state = 'completed' AND j.kind <> 'text';

INSERT INTO token_ledger (user_id, day, kind, entry, amount_mt, job_id, reason, created_at)
SELECT j.user_id, utc_day(j.created_at), j.kind, e.entry, e.amount_mt, j.id, e.reason, e.at
FROM demo_jobs j CROSS JOIN LATERAL (
    SELECT 'hold' AS entry, j.cost_mt::bigint AS amount_mt, '' AS reason, j.created_at AS at
    UNION ALL
    SELECT CASE j.state WHEN 'completed' THEN 'settlement' ELSE 'refund' END, j.charged_mt - j.cost_mt,
           CASE j.state WHEN 'failed' THEN 'stuck' WHEN 'cancelled' THEN 'cancelled while running' WHEN 'expired' THEN 'deadline'
                        ELSE '' END, j.ended_at) e
ORDER BY e.at;

INSERT INTO usage_daily (user_id, day, kind, used_mt, jobs)
SELECT l.user_id, l.day, l.kind, sum(l.amount_mt), count(*) FILTER (WHERE l.entry = 'hold')
FROM token_ledger l JOIN demo_users u ON u.id = l.user_id GROUP BY l.user_id, l.day, l.kind;

UPDATE user_state s SET used_mt = d.used_mt, day = utc_day(now())
FROM (SELECT u.user_id, sum(u.used_mt) AS used_mt FROM usage_daily u JOIN demo_users n ON n.id = u.user_id
      WHERE u.day = utc_day(now()) GROUP BY u.user_id) d
WHERE s.user_id = d.user_id;

INSERT INTO uptime_minutes (minute, ok)
SELECT m, extract(epoch FROM m)::bigint / 60 % 1801 <> 0
FROM generate_series(date_trunc('minute', now()) - interval '30 days', date_trunc('minute', now()) - interval '1 minute', '1 minute') m
WHERE EXISTS (SELECT FROM demo_users) ON CONFLICT DO NOTHING;

-- FEED, last: the order of seq is the order of commits.
SELECT pg_advisory_xact_lock(7041);
INSERT INTO job_events (seq, job_id, job_seq, user_id, type, attempt, data, created_at)
SELECT nextval('job_events_seq'), o.id, o.job_seq, o.user_id, o.type, o.attempt, o.data, o.at
FROM (SELECT j.id, e.job_seq, j.user_id, e.type, e.attempt, e.data, e.at FROM demo_jobs j CROSS JOIN LATERAL (
          SELECT 1 AS job_seq, 'queued' AS type, 0 AS attempt, '{}'::jsonb AS data, j.created_at AS at
          UNION ALL SELECT 2, 'started', 1, '{"worker": "preview-a"}', j.started_at WHERE j.started_at IS NOT NULL
          UNION ALL SELECT CASE WHEN j.started_at IS NULL THEN 2 ELSE 3 END, j.state, CASE WHEN j.started_at IS NULL THEN 0 ELSE 1 END,
                           jsonb_build_object('charged_mt', j.charged_mt, 'refunded_mt', j.cost_mt - j.charged_mt), j.ended_at) e
      ORDER BY e.at, j.id, e.job_seq) o;
