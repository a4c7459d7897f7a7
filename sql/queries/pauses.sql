-- Pauses: kinds of which no job is started until an operator ends the pause.

-- name: set_pause
-- Pause a kind, or give its pause another message; it stays the same pause then.
INSERT INTO queue_pauses (kind, message, actor) VALUES (:kind, :message, :actor)
ON CONFLICT (kind) DO UPDATE SET message = excluded.message, actor = excluded.actor
RETURNING kind, message, actor, created_at

-- name: clear_pause
-- End the pause of a kind.
DELETE FROM queue_pauses WHERE kind = :kind RETURNING kind, message, created_at

-- name: live_pauses
-- The pauses that go on.
SELECT kind, message, actor, created_at FROM queue_pauses ORDER BY kind

-- name: tell_pauses_changed
-- Wake the scheduler, once this commits.
SELECT pg_notify('tessera_feed', 'pauses')
