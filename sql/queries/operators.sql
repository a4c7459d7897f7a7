-- Users, keys and audit as the operator and the API write them.

-- name: insert_user
-- Add a user; its user_state follows by trigger.
INSERT INTO users (id, name, plan_id, is_admin) VALUES (:id, :name, :plan_id, :is_admin)

-- name: user_by_name
-- A live user of that name.
SELECT id, name, plan_id, is_admin, created_at FROM users WHERE name = :name AND deleted_at IS NULL

-- name: override_limits
-- Replace limits of the plan by a user's own; NULL inherits.
UPDATE users
SET daily_mt = :daily_mt, submissions_per_min = :submissions_per_min, requests_per_min = :requests_per_min,
    max_queued = :max_queued, max_running = :max_running, max_image_px = :max_image_px, max_video_s = :max_video_s
WHERE id = :user_id

-- name: insert_api_key
-- Store a key by the hash of its secret.
INSERT INTO api_keys (id, user_id, secret_sha256, name, scopes, daily_cap_mt, expires_at)
VALUES (:id, :user_id, :secret_sha256, :name, CAST(:scopes AS text[]), :daily_cap_mt, :expires_at)

-- name: revoke_keys_named
-- Revoke a user's keys of one name.
UPDATE api_keys SET revoked_at = now() WHERE user_id = :user_id AND name = :name AND revoked_at IS NULL

-- name: insert_audit
-- Record an act of an operator.
INSERT INTO audit_log (actor, action, subject, data) VALUES (:actor, :action, :subject, :data)

-- name: change_plan
-- Put a user on another plan, with its row in audit_log; see sql/functions/jobs.sql.
SELECT change_plan(:user_id, :plan_id, :actor, :subject, :grant_id) AS outcome

-- name: enter_by_hand
-- Grant tokens for today, or adjust a day, with its row in audit_log; see sql/functions/jobs.sql.
SELECT e.day, e.used_mt, e.daily_mt
FROM enter_by_hand(:user_id, :entry, :amount_mt, CAST(:day AS date), :reason, :actor, :subject) AS e

-- name: list_audit
-- A page of what operators did, the newest first.
SELECT a.id, a.actor, a.action, a.subject, a.data, a.created_at
FROM audit_log a
WHERE a.id < coalesce(CAST(:before AS bigint), 9223372036854775807)
  AND (CAST(:subject AS text) IS NULL OR a.subject = CAST(:subject AS text))
ORDER BY a.id DESC LIMIT :limit
