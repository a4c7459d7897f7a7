-- Models that an operator keeps off a worker.

-- name: set_exclusion
-- Keep a model off a worker, or give the exclusion that is there another end.
INSERT INTO exclusions (worker, model, until, reason, actor)
VALUES (:worker, :model, now() + make_interval(secs => CAST(:for_s AS double precision)), :reason, :actor)
ON CONFLICT (worker, model) DO UPDATE
SET until = excluded.until, reason = excluded.reason, actor = excluded.actor, created_at = excluded.created_at
RETURNING worker, model, until, reason, actor, created_at

-- name: clear_exclusion
-- End an exclusion before its time; what had ended by itself is cleared and not returned.
WITH cleared AS (DELETE FROM exclusions WHERE worker = :worker AND model = :model RETURNING worker, model, until)
SELECT worker, model, until FROM cleared WHERE until > now()

-- name: live_exclusions
-- The exclusions that go on.
SELECT worker, model, until, reason, actor, created_at FROM exclusions WHERE until > now() ORDER BY worker, model
