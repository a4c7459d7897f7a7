-- The inbox of the bots.

-- name: store_updates
-- Store the updates that are new; answers those, leased where lease_s says for how long.
INSERT INTO inbox (bot, update_id, lane, data, state, tries, lease_token, next_try_at)
SELECT :bot, r.update_id, r.lane, r.data, CASE WHEN l.lease_s IS NULL THEN 'pending' ELSE 'leased' END,
       CASE WHEN l.lease_s IS NULL THEN 0 ELSE 1 END, CASE WHEN l.lease_s IS NOT NULL THEN gen_random_uuid() END,
       clock_timestamp() + make_interval(secs => coalesce(l.lease_s, 0))
FROM (SELECT DISTINCT ON (x.update_id) x.update_id, x.lane, x.data, x.ord
      FROM jsonb_to_recordset(:rows) AS x(ord integer, update_id text, lane text, data jsonb)
      ORDER BY x.update_id, x.ord) r
CROSS JOIN (SELECT CAST(:lease_s AS double precision) AS lease_s) l
ORDER BY r.ord
ON CONFLICT (bot, update_id) DO NOTHING
RETURNING update_id, lease_token, next_try_at

-- name: ring_inbox
-- Wake who waits for updates of a bot, once this commits.
SELECT pg_notify('tessera_deliveries', 'inbox:' || CAST(:bot AS text))

-- name: claim_inbox
-- Lease the next update of each lane of a bot.
SELECT update_id, lease_token, lane, data, tries, received_at, lease_expires_at
FROM claim_inbox(:bot, CAST(:max AS integer), CAST(:lease_s AS double precision), CAST(:max_tries AS integer))

-- name: settle_updates
-- Finish updates or put them back, fenced by their leases.
UPDATE inbox i
SET state = r.state, lease_token = NULL, last_error = r.error,
    ended_at = CASE WHEN r.state <> 'pending' THEN clock_timestamp() END,
    next_try_at = coalesce(r.retry_at, clock_timestamp())
FROM jsonb_to_recordset(:rows) AS r(update_id text, lease_token uuid, state text, error text, retry_at timestamptz)
WHERE i.bot = :bot AND i.update_id = r.update_id AND i.lease_token = r.lease_token
RETURNING i.update_id, i.state
