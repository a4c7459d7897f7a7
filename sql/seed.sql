-- What every installation starts with: the three plans. Safe to repeat: what the operator has changed stays.
-- A demonstration's sample data is in sql/demo.sql.
INSERT INTO plans (id, title, price_usd_cents, tier, daily_mt, submissions_per_min, requests_per_min, max_queued, max_running,
                   max_image_px, max_video_s, retention_days, position)
VALUES
    ('free', 'Free', 0, 'free', 20000, 30, 600, 25, 1, 1024 * 1024, 4, 3, 1),
    ('starter', 'Starter', 500, 'starter', 120000, 60, 1200, 150, 2, 1536 * 1536, 8, 30, 2),
    ('pro', 'Pro', 1200, 'pro', 300000, 120, 3000, 500, 4, 2048 * 2048, 16, 90, 3)
ON CONFLICT (id) DO NOTHING;
