-- The outbox. Rows are written by emit_events in the transaction of the event; here they are given out under leases and
-- ended, each step fenced by the lease's token. What holds a delivery that is leased is next_try_at: past it, anybody may
-- take it. So a process that dies at any line loses nothing, and a delivery may come twice, never not at all.

-- Write the deliveries of events that were just appended: rows as of emit_events, those with outbox. A job's own webhook, the
-- user's live endpoints and the job's chat each get one row of every event that they want.
CREATE OR REPLACE FUNCTION enqueue_deliveries(p_rows jsonb, p_now timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_woken text;
BEGIN
    FOR v_woken IN WITH added AS (
        INSERT INTO deliveries (event_seq, job_id, job_seq, user_id, event, channel, target, bot, endpoint_id, url,
                                next_try_at, created_at)
        SELECT e.seq, e.job_id, e.job_seq, e.user_id, e.type, t.channel, t.target, t.bot, t.endpoint_id, t.url, p_now, p_now
        FROM jsonb_to_recordset(p_rows) AS x(job_id uuid, job_seq integer, outbox boolean)
        JOIN job_events e ON e.job_id = x.job_id AND e.job_seq = x.job_seq
        JOIN jobs j ON j.id = x.job_id
        CROSS JOIN LATERAL (
            SELECT 'webhook' AS channel, 'job:' || j.user_id || ':' || (j.webhook ->> 'origin') AS target, NULL AS bot,
                   NULL::uuid AS endpoint_id, j.webhook ->> 'url' AS url
            WHERE j.webhook IS NOT NULL AND j.webhook -> 'events' ? e.type
            UNION ALL
            SELECT 'webhook', w.id::text, NULL, w.id, NULL
            FROM webhook_endpoints w
            WHERE w.user_id = j.user_id AND w.disabled_at IS NULL AND w.deleted_at IS NULL AND e.type = ANY (w.events)
            UNION ALL
            SELECT 'chat', (j.delivery ->> 'platform') || ':' || (j.delivery ->> 'bot') || ':' || (j.delivery ->> 'chat'),
                   (j.delivery ->> 'platform') || ':' || (j.delivery ->> 'bot'), NULL, NULL
            WHERE j.delivery IS NOT NULL AND j.delivery -> 'events' ? e.type
        ) t
        WHERE x.outbox
        ORDER BY e.seq
        RETURNING coalesce(bot, target) AS woken
    )
    SELECT DISTINCT a.woken FROM added a
    LOOP
        PERFORM pg_notify('tessera_deliveries', v_woken);
    END LOOP;
END $$;

-- Lease the oldest open delivery of each chat of a bot, where it is due, so many at most. Of one chat there is never more
-- than one under way, so its order is kept. What was taken p_max_tries times and never ended is given up.
CREATE OR REPLACE FUNCTION claim_chats(p_bot text, p_max integer, p_lease_s double precision, p_max_tries integer,
                                       p_now timestamptz DEFAULT NULL)
RETURNS TABLE (id uuid, lease_token uuid)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := coalesce(p_now, clock_timestamp());
BEGIN
    IF EXISTS (SELECT FROM deliveries_pause) THEN
        RETURN;
    END IF;
    RETURN QUERY
    WITH RECURSIVE heads AS ( -- one step of the index for each chat, however many deliveries wait behind its first
        (SELECT d.target, d.id, d.seq, d.next_try_at FROM deliveries d
         WHERE d.channel = 'chat' AND d.ended_at IS NULL AND d.bot = p_bot
         ORDER BY d.target, d.seq LIMIT 1)
        UNION ALL
        SELECT n.target, n.id, n.seq, n.next_try_at
        FROM heads h CROSS JOIN LATERAL (
            SELECT d.target, d.id, d.seq, d.next_try_at FROM deliveries d
            WHERE d.channel = 'chat' AND d.ended_at IS NULL AND d.bot = p_bot AND d.target > h.target
            ORDER BY d.target, d.seq LIMIT 1) n
    ), due AS (
        SELECT h.id FROM heads h WHERE h.next_try_at <= v_now ORDER BY h.seq LIMIT p_max
    ), mine AS (
        SELECT d.id FROM deliveries d
        WHERE d.id IN (SELECT u.id FROM due u) AND d.ended_at IS NULL AND d.next_try_at <= v_now
        FOR UPDATE SKIP LOCKED
    ), taken AS (
        UPDATE deliveries d
        SET state = CASE WHEN d.tries >= p_max_tries THEN 'failed' ELSE 'leased' END,
            ended_at = CASE WHEN d.tries >= p_max_tries THEN v_now END,
            lease_token = CASE WHEN d.tries >= p_max_tries THEN NULL ELSE gen_random_uuid() END,
            last_error = CASE WHEN d.tries >= p_max_tries
                              THEN 'taken ' || d.tries || ' times without an end; last: ' || coalesce(d.last_error, 'no word')
                              ELSE d.last_error END,
            tries = d.tries + CASE WHEN d.tries >= p_max_tries THEN 0 ELSE 1 END,
            first_try_at = coalesce(d.first_try_at, v_now),
            next_try_at = v_now + make_interval(secs => p_lease_s)
        FROM mine m WHERE d.id = m.id
        RETURNING d.id, d.lease_token
    )
    SELECT t.id, t.lease_token FROM taken t WHERE t.lease_token IS NOT NULL;
END $$;

-- Lease due deliveries of one lane of webhooks, the longest due first, so many at most.
CREATE OR REPLACE FUNCTION claim_webhooks(p_target text, p_max integer, p_lease_s double precision,
                                          p_now timestamptz DEFAULT NULL)
RETURNS TABLE (id uuid, lease_token uuid)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := coalesce(p_now, clock_timestamp());
BEGIN
    IF EXISTS (SELECT FROM deliveries_pause) THEN
        RETURN;
    END IF;
    RETURN QUERY
    WITH mine AS (
        SELECT d.id FROM deliveries d
        WHERE d.channel = 'webhook' AND d.ended_at IS NULL AND d.target = p_target AND d.next_try_at <= v_now
        ORDER BY d.next_try_at LIMIT p_max FOR UPDATE SKIP LOCKED
    )
    UPDATE deliveries d
    SET state = 'leased', lease_token = gen_random_uuid(), tries = d.tries + 1,
        first_try_at = coalesce(d.first_try_at, v_now), next_try_at = v_now + make_interval(secs => p_lease_s)
    FROM mine m WHERE d.id = m.id
    RETURNING d.id, d.lease_token;
END $$;

-- The lanes of webhooks with something open, and when the first of each is due: a step of the index for each lane.
CREATE OR REPLACE FUNCTION webhook_lanes() RETURNS TABLE (target text, due_at timestamptz)
LANGUAGE sql STABLE AS $$
    WITH RECURSIVE heads AS (
        (SELECT d.target, d.next_try_at FROM deliveries d WHERE d.channel = 'webhook' AND d.ended_at IS NULL
         ORDER BY d.target, d.next_try_at LIMIT 1)
        UNION ALL
        SELECT n.target, n.next_try_at
        FROM heads h CROSS JOIN LATERAL (
            SELECT d.target, d.next_try_at FROM deliveries d
            WHERE d.channel = 'webhook' AND d.ended_at IS NULL AND d.target > h.target
            ORDER BY d.target, d.next_try_at LIMIT 1) n
    )
    SELECT h.target, h.next_try_at FROM heads h
$$;

-- End or put back deliveries that are leased; rows of a lease that is not theirs any more change nothing and are left out
-- of the answer. rows: [{id, lease_token, outcome, retry_at, counts, error, status, ms, answer}], outcome one of delivered,
-- failed, pending. A try that counts goes into the log, whose numbers go on after a replay; one that does not is taken back.
CREATE OR REPLACE FUNCTION settle_deliveries(p_rows jsonb, p_now timestamptz DEFAULT NULL)
RETURNS TABLE (id uuid, state text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := coalesce(p_now, clock_timestamp());
BEGIN
    PERFORM 1 FROM deliveries d WHERE d.id IN (SELECT x.id FROM jsonb_to_recordset(p_rows) AS x(id uuid))
    ORDER BY d.id FOR UPDATE;
    RETURN QUERY
    WITH settled AS (
        UPDATE deliveries d
        SET state = r.outcome, lease_token = NULL, last_error = r.error,
            ended_at = CASE WHEN r.outcome <> 'pending' THEN v_now END,
            next_try_at = coalesce(r.retry_at, v_now),
            tries = d.tries - CASE WHEN coalesce(r.counts, true) THEN 0 ELSE 1 END
        FROM jsonb_to_recordset(p_rows) AS r(id uuid, lease_token uuid, outcome text, retry_at timestamptz, counts boolean,
                                             error text)
        WHERE d.id = r.id AND d.lease_token = r.lease_token
        RETURNING d.id, d.state, coalesce(r.counts, true) AS counted
    ), logged AS (
        INSERT INTO delivery_tries (delivery_id, number, at, status, ms, error, answer)
        SELECT s.id, coalesce((SELECT max(o.number) FROM delivery_tries o WHERE o.delivery_id = s.id), 0) + 1, v_now,
               r.status, r.ms, r.error, r.answer
        FROM settled s
        JOIN jsonb_to_recordset(p_rows) AS r(id uuid, error text, status integer, ms integer, answer text) ON r.id = s.id
        WHERE s.counted
    )
    SELECT s.id, s.state FROM settled s;
END $$;

-- The inbox: as with chats, the oldest open update of each lane, so many at most.
CREATE OR REPLACE FUNCTION claim_inbox(p_bot text, p_max integer, p_lease_s double precision, p_max_tries integer,
                                       p_now timestamptz DEFAULT NULL)
RETURNS TABLE (update_id text, lease_token uuid, lane text, data jsonb, tries integer, received_at timestamptz,
               lease_expires_at timestamptz)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := coalesce(p_now, clock_timestamp());
BEGIN
    RETURN QUERY
    WITH RECURSIVE heads AS (
        (SELECT i.lane, i.update_id, i.seq, i.next_try_at FROM inbox i
         WHERE i.ended_at IS NULL AND i.bot = p_bot ORDER BY i.lane, i.seq LIMIT 1)
        UNION ALL
        SELECT n.lane, n.update_id, n.seq, n.next_try_at
        FROM heads h CROSS JOIN LATERAL (
            SELECT i.lane, i.update_id, i.seq, i.next_try_at FROM inbox i
            WHERE i.ended_at IS NULL AND i.bot = p_bot AND i.lane > h.lane ORDER BY i.lane, i.seq LIMIT 1) n
    ), due AS (
        SELECT h.update_id FROM heads h WHERE h.next_try_at <= v_now ORDER BY h.seq LIMIT p_max
    ), mine AS (
        SELECT i.update_id FROM inbox i
        WHERE i.bot = p_bot AND i.update_id IN (SELECT u.update_id FROM due u)
          AND i.ended_at IS NULL AND i.next_try_at <= v_now
        FOR UPDATE SKIP LOCKED
    ), taken AS (
        UPDATE inbox i
        SET state = CASE WHEN i.tries >= p_max_tries THEN 'failed' ELSE 'leased' END,
            ended_at = CASE WHEN i.tries >= p_max_tries THEN v_now END,
            lease_token = CASE WHEN i.tries >= p_max_tries THEN NULL ELSE gen_random_uuid() END,
            last_error = CASE WHEN i.tries >= p_max_tries
                              THEN 'taken ' || i.tries || ' times without an end; last: ' || coalesce(i.last_error, 'no word')
                              ELSE i.last_error END,
            tries = i.tries + CASE WHEN i.tries >= p_max_tries THEN 0 ELSE 1 END,
            next_try_at = v_now + make_interval(secs => p_lease_s)
        FROM mine m WHERE i.bot = p_bot AND i.update_id = m.update_id
        RETURNING i.update_id, i.lease_token, i.lane, i.data, i.tries, i.received_at, i.next_try_at, i.seq
    )
    SELECT t.update_id, t.lease_token, t.lane, t.data, t.tries, t.received_at, t.next_try_at
    FROM taken t WHERE t.lease_token IS NOT NULL ORDER BY t.seq;
END $$;
