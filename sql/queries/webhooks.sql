-- Webhook endpoints, their secrets, and what the sender claims.

-- name: insert_endpoint
-- Add an endpoint, unless the user has as many as are allowed.
INSERT INTO webhook_endpoints (id, user_id, url, secret, events, description)
SELECT :id, :user_id, :url, CAST(:secret AS bytea), CAST(:events AS text[]), :description
WHERE (SELECT count(*) FROM webhook_endpoints w WHERE w.user_id = :user_id AND w.deleted_at IS NULL) < CAST(:most AS integer)

-- name: lock_user_of_endpoints
-- So that two additions at once are counted one after the other.
SELECT u.id FROM users u WHERE u.id = :user_id FOR NO KEY UPDATE

-- name: list_endpoints
-- A user's endpoints, the newest first.
SELECT w.id, w.url, w.description, w.events, w.created_at, w.disabled_at, w.disabled_reason, w.old_secret_until,
       w.failed_in_a_row
FROM webhook_endpoints w WHERE w.user_id = :user_id AND w.deleted_at IS NULL ORDER BY w.created_at DESC, w.id

-- name: get_endpoint
-- One of a user's endpoints.
SELECT w.id, w.url, w.description, w.events, w.created_at, w.disabled_at, w.disabled_reason, w.old_secret_until,
       w.failed_in_a_row
FROM webhook_endpoints w WHERE w.id = :id AND w.user_id = :user_id AND w.deleted_at IS NULL

-- name: change_endpoint
-- Change what is not NULL of an endpoint.
UPDATE webhook_endpoints w
SET url = coalesce(CAST(:url AS text), w.url), events = coalesce(CAST(:events AS text[]), w.events),
    description = coalesce(CAST(:description AS text), w.description),
    disabled_at = CASE CAST(:disabled AS boolean) WHEN true THEN coalesce(w.disabled_at, now()) WHEN false THEN NULL
                                                  ELSE w.disabled_at END,
    disabled_reason = CASE CAST(:disabled AS boolean) WHEN true THEN coalesce(w.disabled_reason, 'by its owner')
                                                      WHEN false THEN NULL ELSE w.disabled_reason END,
    failed_in_a_row = CASE WHEN CAST(:disabled AS boolean) = false OR CAST(:url AS text) <> w.url THEN 0
                           ELSE w.failed_in_a_row END
WHERE w.id = :id AND w.user_id = :user_id AND w.deleted_at IS NULL

-- name: delete_endpoint
-- An endpoint is gone; its row stays for the log, without its secrets.
UPDATE webhook_endpoints w
SET deleted_at = now(), secret = '', old_secret = NULL, old_secret_until = NULL
WHERE w.id = :id AND w.user_id = :user_id AND w.deleted_at IS NULL

-- name: disable_endpoint
-- No more events for an endpoint, until its owner enables it again.
UPDATE webhook_endpoints w SET disabled_at = coalesce(w.disabled_at, now()), disabled_reason = coalesce(w.disabled_reason, :reason)
WHERE w.id = :id AND w.deleted_at IS NULL

-- name: endpoints_answered
-- What was sent to these endpoints has arrived: they do not fail any more.
UPDATE webhook_endpoints w SET failed_in_a_row = 0 WHERE w.id = ANY (CAST(:ids AS uuid[])) AND w.failed_in_a_row > 0

-- name: endpoint_failed
-- So many more deliveries of an endpoint were given up; at :most in a row it is disabled.
UPDATE webhook_endpoints w
SET failed_in_a_row = w.failed_in_a_row + CAST(:count AS integer),
    disabled_at = CASE WHEN w.failed_in_a_row + CAST(:count AS integer) >= CAST(:most AS integer)
                       THEN coalesce(w.disabled_at, now()) ELSE w.disabled_at END,
    disabled_reason = CASE WHEN w.failed_in_a_row + CAST(:count AS integer) >= CAST(:most AS integer)
                           THEN coalesce(w.disabled_reason, :reason) ELSE w.disabled_reason END
WHERE w.id = :id AND w.deleted_at IS NULL

-- name: secret_of_endpoint
-- What signs the webhooks of an endpoint.
SELECT w.secret, w.old_secret, w.old_secret_until
FROM webhook_endpoints w WHERE w.id = :id AND w.user_id = :user_id AND w.deleted_at IS NULL

-- name: rotate_secret_of_endpoint
-- Give an endpoint a new secret; the one that it has signs too, for so long.
UPDATE webhook_endpoints w
SET old_secret = w.secret, secret = CAST(:secret AS bytea),
    old_secret_until = now() + make_interval(secs => CAST(:overlap_s AS double precision))
WHERE w.id = :id AND w.user_id = :user_id AND w.deleted_at IS NULL
RETURNING w.secret, w.old_secret, w.old_secret_until

-- name: make_webhook_secret
-- What signs the webhooks that a user's jobs name, unless there is one.
INSERT INTO webhook_secrets (user_id, secret)
SELECT :user_id, uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
ON CONFLICT (user_id) DO NOTHING

-- name: webhook_secret
-- What signs the webhooks that a user's jobs name.
SELECT s.secret, s.old_secret, s.old_secret_until FROM webhook_secrets s WHERE s.user_id = :user_id

-- name: rotate_webhook_secret
-- Give a user another secret; the one of now signs too, for so long.
UPDATE webhook_secrets s
SET old_secret = s.secret, secret = CAST(:secret AS bytea),
    old_secret_until = now() + make_interval(secs => CAST(:overlap_s AS double precision))
WHERE s.user_id = :user_id
RETURNING s.secret, s.old_secret, s.old_secret_until

-- name: add_test_delivery
-- A test of an endpoint, to be sent like an event.
INSERT INTO deliveries (channel, target, endpoint_id, user_id, event)
VALUES ('webhook', CAST(CAST(:endpoint_id AS uuid) AS text), :endpoint_id, :user_id, :event)
RETURNING id

-- name: ring_deliveries
-- Wake who brings the deliveries of a lane, once this commits.
SELECT pg_notify('tessera_deliveries', CAST(:name AS text))

-- name: webhook_lanes
-- The lanes with something open, and when the first of each is due.
SELECT target, due_at FROM webhook_lanes()

-- name: claim_webhooks
-- Lease due deliveries of one lane.
SELECT id, lease_token FROM claim_webhooks(:target, CAST(:max AS integer), CAST(:lease_s AS double precision))

-- name: claimed_webhooks
-- Claimed webhooks with all that is needed to send them; the job is NULL when it was deleted meanwhile.
SELECT d.id AS delivery_id, d.lease_token, d.tries, d.first_try_at, d.event, d.job_id, d.job_seq, d.endpoint_id, d.user_id,
       d.created_at AS delivery_created_at, coalesce(w.url, d.url) AS target_url,
       CASE WHEN d.endpoint_id IS NULL THEN s.secret ELSE w.secret END AS secret,
       CASE WHEN d.endpoint_id IS NULL THEN s.old_secret ELSE w.old_secret END AS old_secret,
       CASE WHEN d.endpoint_id IS NULL THEN s.old_secret_until ELSE w.old_secret_until END AS old_secret_until,
       coalesce(w.deleted_at, CASE WHEN d.endpoint_id IS NOT NULL AND w.id IS NULL THEN d.created_at END) AS endpoint_deleted_at,
       w.disabled_at AS endpoint_disabled_at, w.disabled_reason, u.deleted_at AS user_deleted_at,
       e.data AS event_data, e.attempt AS event_attempt, e.created_at AS event_at,
       j.id, j.webhook, j.kind, j.model, j.tier, j.state, j.input, j.metadata, j.output, j.error, j.cost_mt, j.charged_mt,
       j.attempt, j.not_before, j.deadline, j.cancel_requested_at, j.retried_from, j.moderation, j.created_at, j.started_at,
       j.finished_at,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('id', a.id, 'media_type', a.media_type, 'bytes', a.bytes,
                                                     'width', a.width, 'height', a.height, 'duration_s', a.duration_s,
                                                     'thumbnail_sha256', a.thumbnail_sha256) ORDER BY a.index), '[]')
        FROM artifacts a WHERE a.job_id = j.id AND a.deleted_at IS NULL AND a.withheld_at IS NULL) AS artifacts
FROM deliveries d
JOIN users u ON u.id = d.user_id
LEFT JOIN webhook_endpoints w ON w.id = d.endpoint_id
LEFT JOIN webhook_secrets s ON s.user_id = d.user_id
LEFT JOIN jobs j ON j.id = d.job_id
LEFT JOIN job_events e ON e.seq = d.event_seq
WHERE d.id = ANY (CAST(:ids AS uuid[])) AND d.state = 'leased' ORDER BY d.seq

-- name: give_up_lane
-- End what waits in a lane, so many at most.
UPDATE deliveries d SET state = 'failed', ended_at = now(), lease_token = NULL, last_error = :reason
WHERE d.id IN (SELECT o.id FROM deliveries o
               WHERE o.channel = 'webhook' AND o.ended_at IS NULL AND o.target = :target
               ORDER BY o.next_try_at LIMIT :limit FOR UPDATE SKIP LOCKED)
