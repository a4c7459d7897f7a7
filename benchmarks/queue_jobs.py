"""A made-up queue for benchmarks: its models, workers and the statements that fill a database with jobs."""

MODELS = (("light-a", "text", 0), ("light-b", "speech", 0), ("heavy-a", "image", 12_000), ("heavy-b", "text", 10_000))
WORKERS = (
    ("cpu-worker", "cpu", ("light-a", "light-b")),
    ("gpu-image", "gpu", ("heavy-a",)),
    ("gpu-text", "gpu", ("heavy-b",)),
)

# Users of all plans; each has about 100 jobs, at most 10,000 users. :depth is the number of jobs.
FILL = (
    """INSERT INTO users (id, name, plan_id, daily_mt, max_queued, max_running, submissions_per_min)
       SELECT gen_random_uuid(), 'bench-' || n, (ARRAY['free', 'starter', 'pro'])[n % 3 + 1], 1000000000000, 2000000000,
              1000, 1000000
       FROM generate_series(0, least(10000, greatest(10, :depth / 100)) - 1) AS n""",
    "ANALYZE users",
    """INSERT INTO jobs (id, user_id, kind, model, tier, state, input, day, cost_mt, created_at, queued_at,
                          last_job_seq)
       SELECT gen_random_uuid(), u.id, m.kind, m.model, CASE WHEN n % 10 = 0 THEN 'batch' ELSE u.plan_id END, 'queued',
              '{"prompt": "go"}', current_date, 1 + n % 4000, now() - make_interval(secs => :depth - n),
              now() - make_interval(secs => :depth - n), 1
       FROM generate_series(0, :depth - 1) AS n
       JOIN (SELECT id, plan_id, row_number() OVER (ORDER BY name) - 1 AS place FROM users WHERE name LIKE 'bench-%') u
         ON u.place = (n::bigint * 7919) % least(10000, greatest(10, :depth / 100)) -- of n alone, so that it is hashed
       JOIN (VALUES (0, 'text', 'light-a'), (1, 'speech', 'light-b'), (2, 'image', 'heavy-a'), (3, 'text', 'heavy-b'))
            AS m(place, kind, model) ON m.place = (n / 3) % 4""",
    "UPDATE user_state s SET queued = (SELECT count(*) FROM jobs j WHERE j.user_id = s.user_id)",
)
