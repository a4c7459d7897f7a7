-- The outbox as the API reads it; what gives out and ends deliveries is in sql/functions/deliveries.sql.

-- name: claim_chats
-- Lease the next delivery of each chat of a bot.
SELECT id, lease_token FROM claim_chats(:bot, CAST(:max AS integer), CAST(:lease_s AS double precision), CAST(:max_tries AS integer))

-- name: claimed_chats
-- Claimed deliveries with their event and their job, in the order of the feed.
SELECT d.id AS delivery_id, d.seq, d.lease_token, d.next_try_at AS lease_expires_at, d.tries, d.event, d.job_seq,
       d.created_at AS delivery_created_at, e.data AS event_data, e.attempt AS event_attempt, e.created_at AS event_at,
       j.id, j.user_id, j.delivery, j.webhook, j.kind, j.model, j.tier, j.state, j.input, j.metadata, j.output, j.error, j.cost_mt,
       j.charged_mt, j.attempt, j.not_before, j.deadline, j.cancel_requested_at, j.retried_from, j.moderation, j.created_at,
       j.started_at, j.finished_at,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('id', a.id, 'media_type', a.media_type, 'bytes', a.bytes,
                                                     'width', a.width, 'height', a.height, 'duration_s', a.duration_s,
                                                     'thumbnail_sha256', a.thumbnail_sha256) ORDER BY a.index), '[]')
        FROM artifacts a WHERE a.job_id = j.id AND a.deleted_at IS NULL AND a.withheld_at IS NULL) AS artifacts
FROM deliveries d JOIN jobs j ON j.id = d.job_id LEFT JOIN job_events e ON e.seq = d.event_seq
WHERE d.id = ANY (CAST(:ids AS uuid[])) AND d.state = 'leased' ORDER BY d.seq

-- name: settle_deliveries
-- End deliveries or put them back, fenced by their leases.
SELECT id, state FROM settle_deliveries(:rows)

-- name: extend_deliveries
-- Begin leases anew, of those that still hold.
UPDATE deliveries d SET next_try_at = clock_timestamp() + make_interval(secs => CAST(:lease_s AS double precision))
FROM jsonb_to_recordset(:rows) AS r(id uuid, lease_token uuid)
WHERE d.id = r.id AND d.lease_token = r.lease_token
RETURNING d.id

-- name: tries_of_deliveries
-- How often, and since when, deliveries were tried.
SELECT d.id, d.tries, d.first_try_at FROM deliveries d WHERE d.id = ANY (CAST(:ids AS uuid[]))

-- name: deliveries_pause
-- The pause of all deliveries, if there is one.
SELECT reason, actor, created_at FROM deliveries_pause

-- name: delivery_of_job
-- The chat of a job.
SELECT j.delivery FROM jobs j WHERE j.id = :id

-- name: lock_delivery_of_job
-- The chat of a job, which is about to be changed.
SELECT j.delivery FROM jobs j WHERE j.id = :id FOR NO KEY UPDATE

-- name: set_delivery_of_job
-- Replace the chat of a job.
UPDATE jobs SET delivery = :delivery WHERE id = :id

-- name: list_deliveries
-- A page of a user's webhooks, the newest first.
SELECT d.id, d.channel, d.endpoint_id, coalesce(d.url, w.url) AS url, d.job_id, d.job_seq, d.event, d.state, d.tries,
       CASE WHEN d.state = 'pending' THEN d.next_try_at END AS next_try_at, d.last_error, d.created_at, d.ended_at
FROM deliveries d LEFT JOIN webhook_endpoints w ON w.id = d.endpoint_id
WHERE d.user_id = :user_id AND d.channel = 'webhook'
  AND d.seq < coalesce((SELECT b.seq FROM deliveries b WHERE b.id = CAST(:before AS uuid)), 9223372036854775807)
  AND (CAST(:endpoint_id AS uuid) IS NULL OR d.endpoint_id = CAST(:endpoint_id AS uuid))
  AND (CAST(:job_id AS uuid) IS NULL OR d.job_id = CAST(:job_id AS uuid))
  AND (CAST(:state AS text) IS NULL OR d.state = CAST(:state AS text))
ORDER BY d.seq DESC LIMIT :limit

-- name: get_delivery
-- One of a user's webhooks.
SELECT d.id, d.channel, d.endpoint_id, coalesce(d.url, w.url) AS url, d.job_id, d.job_seq, d.event, d.state, d.tries,
       CASE WHEN d.state = 'pending' THEN d.next_try_at END AS next_try_at, d.last_error, d.created_at, d.ended_at
FROM deliveries d LEFT JOIN webhook_endpoints w ON w.id = d.endpoint_id
WHERE d.id = :id AND d.user_id = :user_id AND d.channel = 'webhook'

-- name: tries_of_delivery
-- The log of a delivery.
SELECT t.number, t.at, t.status, t.ms, t.error, t.answer FROM delivery_tries t WHERE t.delivery_id = :id ORDER BY t.number

-- name: replay_delivery
-- A delivery that has ended is to be brought once more, with a day of tries of its own; the id stays.
UPDATE deliveries d
SET state = 'pending', ended_at = NULL, next_try_at = clock_timestamp(), first_try_at = NULL, tries = 0
WHERE d.id = :id AND d.state IN ('delivered', 'failed')
RETURNING d.channel, d.target, d.bot

-- name: deliveries_of_all
-- A page of everybody's deliveries, the newest first, as an operator sees them.
SELECT d.id, d.channel, d.target, d.endpoint_id, coalesce(d.url, w.url) AS url, d.user_id, d.job_id, d.job_seq, d.event, d.state,
       d.tries, CASE WHEN d.state = 'pending' THEN d.next_try_at END AS next_try_at, d.last_error, d.created_at, d.ended_at
FROM deliveries d LEFT JOIN webhook_endpoints w ON w.id = d.endpoint_id
WHERE d.seq < coalesce((SELECT b.seq FROM deliveries b WHERE b.id = CAST(:before AS uuid)), 9223372036854775807)
  AND d.state = :state AND (CAST(:channel AS text) IS NULL OR d.channel = CAST(:channel AS text))
ORDER BY d.seq DESC LIMIT :limit

-- name: pause_deliveries
-- Bring nothing from now on; a repeated pause takes the new reason and began when it began.
INSERT INTO deliveries_pause (reason, actor) VALUES (:reason, :actor)
ON CONFLICT (singleton) DO UPDATE SET reason = excluded.reason, actor = excluded.actor
RETURNING reason, actor, created_at

-- name: resume_deliveries
-- End the pause.
DELETE FROM deliveries_pause RETURNING reason, created_at

-- name: wake_deliveries
-- Wake everybody who brings deliveries, once this commits: of each open lane one.
SELECT count(pg_notify('tessera_deliveries', l.name)) AS woken
FROM (SELECT target AS name FROM webhook_lanes() UNION SELECT DISTINCT d.bot FROM deliveries d
      WHERE d.channel = 'chat' AND d.ended_at IS NULL LIMIT 1000) l

-- name: open_deliveries
-- What waits to be brought, by channel, and for how long the first has been due; and what was given up within a day.
SELECT d.channel, count(*)::integer AS open, greatest(0, extract(epoch FROM now() - min(d.next_try_at)))::double precision AS overdue_s
FROM deliveries d WHERE d.ended_at IS NULL GROUP BY d.channel
