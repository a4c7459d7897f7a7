-- Persons and their identities: what the API reads of them, and their settings.

-- name: identity_for_auth
-- The user of an identity with the user's limits.
SELECT i.user_id, u.name, u.banned_at, u.ban_reason, u.deleted_at,
       l.plan_id, l.tier, l.daily_mt, l.submissions_per_min, l.requests_per_min, l.max_queued, l.max_running, l.max_image_px,
       l.max_video_s, l.retention_days
FROM identities i JOIN users u ON u.id = i.user_id JOIN user_limits l ON l.user_id = i.user_id
WHERE i.provider = :provider AND i.subject = :subject

-- name: resolve_identity
-- The user of an identity, made at first sight; see sql/functions/identities.sql.
SELECT r.user_id, r.outcome, r.retry_after_s, r.ban_reason
FROM resolve_identity(:provider, :subject, :hmac, :user_id, :id, :per_min) AS r

-- name: describe_identity
-- Note how a person is called and speaks there, where it was told and has changed.
UPDATE identities SET display_name = coalesce(:display_name, display_name), locale = coalesce(:locale, locale)
WHERE provider = :provider AND subject = :subject
  AND (display_name IS DISTINCT FROM coalesce(:display_name, display_name) OR locale IS DISTINCT FROM coalesce(:locale, locale))

-- name: get_identity
-- How a person is called and speaks there, and the user's settings.
SELECT i.display_name, i.locale, i.created_at, u.settings
FROM identities i JOIN users u ON u.id = i.user_id WHERE i.provider = :provider AND i.subject = :subject

-- name: get_settings
-- A user's settings.
SELECT u.settings FROM users u WHERE u.id = :user_id

-- name: change_settings
-- Lay some settings over a user's and take others out, unless they then have more than so many bytes.
UPDATE users SET settings = (settings || CAST(:set AS jsonb)) - CAST(:unset AS text[])
WHERE id = :user_id AND octet_length(((settings || CAST(:set AS jsonb)) - CAST(:unset AS text[]))::text) <= CAST(:max_bytes AS integer)
RETURNING settings

-- name: identities_of_user
-- Who a user is elsewhere, the oldest first.
SELECT i.provider, i.subject, i.display_name, i.locale, i.created_at
FROM identities i WHERE i.user_id = :user_id ORDER BY i.created_at, i.id

-- name: make_link_code
-- A code that brings others to this user; see sql/functions/accounts.sql.
SELECT make_link_code(:user_id, :hmac, :ttl_s) AS expires_at

-- name: redeem_link_code
-- Become part of the user who made a code; see sql/functions/accounts.sql.
SELECT r.outcome, r.user_id, r.retry_after_s FROM redeem_link_code(:user_id, :hmac) AS r

-- name: unlink_identity
-- Take an identity from a user; see sql/functions/accounts.sql.
SELECT unlink_identity(:user_id, :provider, :subject, :hmac) AS outcome

-- name: delete_account
-- Delete an account; see sql/functions/accounts.sql.
SELECT delete_account(:user_id, CAST(:identities AS jsonb), :actor) AS outcome

-- name: merged_into
-- Who has a user's things now.
SELECT u.merged_into FROM users u WHERE u.id = :user_id

-- name: user_for_export
-- What a user's export begins with.
SELECT u.name, u.plan_id, u.created_at, u.settings FROM users u WHERE u.id = :user_id AND u.deleted_at IS NULL

-- name: grants_of_user
-- Which plans a user had, the newest first.
SELECT g.plan_id, g.source, g.starts_at, g.ends_at FROM grants g WHERE g.user_id = :user_id ORDER BY g.starts_at DESC, g.id

-- name: uploads_of_user
-- A user's uploads that can still be used, the newest first.
SELECT a.id, a.media_type, a.bytes, a.width, a.height, a.duration_s, a.expires_at
FROM uploads a WHERE a.user_id = :user_id AND a.deleted_at IS NULL ORDER BY a.created_at DESC, a.id
