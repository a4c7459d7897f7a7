-- Drains: what takes no new jobs until a time, a worker of cluster.toml or a node with all its workers.

-- name: set_drain
-- Begin a drain, or give the one that goes on another end; it stays the same drain then.
INSERT INTO drains (target, kind, until, actor, reason)
VALUES (:target, :kind, now() + make_interval(secs => CAST(:for_s AS double precision)), :actor, :reason)
ON CONFLICT (target) DO UPDATE
SET kind = excluded.kind, until = excluded.until, actor = excluded.actor, reason = excluded.reason,
    created_at = CASE WHEN drains.until > now() THEN drains.created_at ELSE excluded.created_at END
RETURNING until, created_at

-- name: clear_drain
-- End a drain before its time; what had ended by itself is cleared and not returned.
WITH cleared AS (DELETE FROM drains WHERE target = :target RETURNING target, kind, until, reason)
SELECT target, kind, until, reason FROM cleared WHERE until > now()

-- name: live_drains
-- The drains that go on.
SELECT target, kind, until, actor, reason, created_at FROM drains WHERE until > now() ORDER BY target

-- name: tell_drains_changed
-- Wake the scheduler, once this commits.
SELECT pg_notify('tessera_feed', 'drains')
