-- Accounts as persons make, join and leave them: link codes, merging, unlinking, deleting. Each is one transaction that
-- locks as jobs.sql says (user_state, batches, jobs, then users, each ascending, usage_daily, FEED), and none of them gives
-- back quota that was used today.

-- An id as people see it; the same as show() of tessera/ids.py.
CREATE OR REPLACE FUNCTION show_id(p_prefix text, p_id uuid) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT p_prefix || '_' || string_agg(
        substr('0123456789abcdefghjkmnpqrstvwxyz',
               1 + substring(B'00' || ('x' || replace(p_id::text, '-', ''))::bit(128) FROM 5 * n + 1 FOR 5)::bit(5)::integer, 1),
        '' ORDER BY n)
    FROM generate_series(0, 25) AS n
$$;

-- What is stored for a user who became part of another one belongs to that one: whoever asked had not heard of it yet. For
-- a deleted user nothing is stored. The lock waits for a merge or a deletion that goes on at this moment.
CREATE OR REPLACE FUNCTION belong_to_the_living() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_user record;
BEGIN
    SELECT u.merged_into, u.deleted_at INTO v_user FROM users u WHERE u.id = NEW.user_id FOR KEY SHARE;
    IF v_user.merged_into IS NOT NULL THEN
        NEW.user_id := v_user.merged_into;
    ELSIF v_user.deleted_at IS NOT NULL THEN
        RAISE EXCEPTION 'the account % was deleted', NEW.user_id USING ERRCODE = 'TS004';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER uploads_belong_to_the_living BEFORE INSERT ON uploads
    FOR EACH ROW EXECUTE FUNCTION belong_to_the_living();
CREATE OR REPLACE TRIGGER api_keys_belong_to_the_living BEFORE INSERT ON api_keys
    FOR EACH ROW EXECUTE FUNCTION belong_to_the_living();
CREATE OR REPLACE TRIGGER batches_belong_to_the_living BEFORE INSERT ON batches
    FOR EACH ROW EXECUTE FUNCTION belong_to_the_living();
CREATE OR REPLACE TRIGGER batch_files_belong_to_the_living BEFORE INSERT ON batch_files
    FOR EACH ROW EXECUTE FUNCTION belong_to_the_living();
CREATE OR REPLACE TRIGGER webhook_endpoints_belong_to_the_living BEFORE INSERT ON webhook_endpoints
    FOR EACH ROW EXECUTE FUNCTION belong_to_the_living();
CREATE OR REPLACE TRIGGER webhook_secrets_belong_to_the_living BEFORE INSERT ON webhook_secrets
    FOR EACH ROW EXECUTE FUNCTION belong_to_the_living();
CREATE OR REPLACE TRIGGER web_sessions_belong_to_the_living BEFORE INSERT ON web_sessions
    FOR EACH ROW EXECUTE FUNCTION belong_to_the_living();
CREATE OR REPLACE TRIGGER identities_belong_to_the_living BEFORE INSERT ON identities
    FOR EACH ROW EXECUTE FUNCTION belong_to_the_living();

-- A code that brings others to this user: it replaces an unused one. Answers when it expires, nothing for a user who is
-- gone. p_hmac: the keyed hash of the code. The code's row is locked before the user's, as redeem_link_code does.
CREATE OR REPLACE FUNCTION make_link_code(p_user_id uuid, p_hmac bytea, p_ttl_s double precision, p_now timestamptz DEFAULT NULL)
RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := coalesce(p_now, clock_timestamp());
    v_expires timestamptz;
BEGIN
    INSERT INTO link_codes AS c (code_hmac, user_id, created_at, expires_at)
    SELECT p_hmac, u.id, v_now, v_now + make_interval(secs => p_ttl_s) FROM users u
    WHERE u.id = p_user_id AND u.deleted_at IS NULL
    ON CONFLICT (user_id) DO UPDATE
        SET code_hmac = excluded.code_hmac, created_at = excluded.created_at, expires_at = excluded.expires_at
    RETURNING c.expires_at INTO v_expires;
    RETURN v_expires;
END $$;

-- The limit of two users who become one. An operator's restriction below the plan stays, the narrower of two; else the
-- better one holds. NULL is the plan's.
CREATE OR REPLACE FUNCTION merged_limit(p_a bigint, p_a_plan bigint, p_b bigint, p_b_plan bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN p_a < p_a_plan OR p_b < p_b_plan THEN least(p_a, p_b)
                WHEN p_a IS NULL AND p_b IS NULL THEN NULL
                ELSE greatest(coalesce(p_a, p_a_plan), coalesce(p_b, p_b_plan)) END
$$;

-- Make one user of two: p_from becomes part of p_into, who has everything afterwards. Keys, identities, jobs whatever their
-- state, files, events, batches, webhooks and grants move; the better plan and the better limits win; settings of p_into
-- win where both have one. The ledger is append-only, so its rows stay, and a pair of adjustments for each day and kind
-- brings the use of p_from to nothing and adds it to that of p_into. What waits or runs goes on, and an event for each such
-- job tells the scheduler's mirror.
-- Answers merged; or, with nothing changed, same, gone (one of the two is banned, deleted or merged by now) or operator.
CREATE OR REPLACE FUNCTION merge_users(p_from uuid, p_into uuid, p_now timestamptz DEFAULT NULL) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz;
    v_today date;
    v_carried bigint;
    v_plan text;
BEGIN
    IF p_from = p_into THEN
        RETURN 'same';
    END IF;
    PERFORM 1 FROM user_state s WHERE s.user_id IN (p_from, p_into) ORDER BY s.user_id FOR UPDATE;
    PERFORM 1 FROM batches b WHERE b.user_id = p_from ORDER BY b.id FOR UPDATE;
    PERFORM 1 FROM jobs j WHERE j.user_id = p_from OR (j.user_id = p_into AND j.finished_at IS NULL) ORDER BY j.id FOR UPDATE;
    -- Whoever stores a file, a key or anything else of theirs meanwhile is waited for, and waits from here on.
    PERFORM 1 FROM users u WHERE u.id IN (p_from, p_into) ORDER BY u.id FOR UPDATE;
    v_now := coalesce(p_now, clock_timestamp());
    v_today := utc_day(v_now);
    IF (SELECT count(*) FROM users u WHERE u.id IN (p_from, p_into) AND u.deleted_at IS NULL AND u.banned_at IS NULL) < 2 THEN
        RETURN 'gone';
    END IF;
    IF EXISTS (SELECT FROM users u WHERE u.id IN (p_from, p_into) AND u.is_admin) THEN
        RETURN 'operator';
    END IF;

    SELECT p.id INTO v_plan FROM users u JOIN plans p ON p.id = u.plan_id WHERE u.id IN (p_from, p_into)
    ORDER BY p.daily_mt DESC, p.price_usd_cents DESC, u.id = p_into DESC LIMIT 1;

    UPDATE users a
    SET plan_id = v_plan, settings = b.settings || a.settings,
        daily_mt = merged_limit(a.daily_mt, pa.daily_mt, b.daily_mt, pb.daily_mt),
        submissions_per_min = merged_limit(a.submissions_per_min, pa.submissions_per_min, b.submissions_per_min,
                                           pb.submissions_per_min),
        requests_per_min = merged_limit(a.requests_per_min, pa.requests_per_min, b.requests_per_min, pb.requests_per_min),
        max_queued = merged_limit(a.max_queued, pa.max_queued, b.max_queued, pb.max_queued),
        max_running = merged_limit(a.max_running, pa.max_running, b.max_running, pb.max_running),
        max_image_px = merged_limit(a.max_image_px, pa.max_image_px, b.max_image_px, pb.max_image_px),
        -- Seconds with a fraction, compared as whole milliseconds.
        max_video_s = merged_limit((a.max_video_s * 1000)::bigint, (pa.max_video_s * 1000)::bigint,
                                   (b.max_video_s * 1000)::bigint, (pb.max_video_s * 1000)::bigint) / 1000.0,
        retention_days = merged_limit(a.retention_days, pa.retention_days, b.retention_days, pb.retention_days)
    FROM users b, plans pa, plans pb
    WHERE a.id = p_into AND b.id = p_from AND pa.id = a.plan_id AND pb.id = b.plan_id;
    UPDATE users u SET merged_into = p_into WHERE u.merged_into = p_from;
    UPDATE users u SET merged_into = p_into, deleted_at = v_now, settings = '{}' WHERE u.id = p_from;

    UPDATE jobs j SET user_id = p_into WHERE j.user_id = p_from;
    UPDATE jobs j SET tier = p.tier FROM plans p
    WHERE p.id = v_plan AND j.user_id = p_into AND j.finished_at IS NULL AND j.tier <> 'batch' AND j.tier <> p.tier;
    UPDATE artifacts a SET user_id = p_into WHERE a.user_id = p_from;
    UPDATE uploads a SET user_id = p_into WHERE a.user_id = p_from;
    UPDATE batches a SET user_id = p_into,
        idempotency_key = CASE WHEN NOT EXISTS (SELECT FROM batches o WHERE o.user_id = p_into
                                                AND o.idempotency_key = a.idempotency_key) THEN a.idempotency_key END
    WHERE a.user_id = p_from;
    UPDATE batch_files a SET user_id = p_into WHERE a.user_id = p_from;
    UPDATE job_events e SET user_id = p_into WHERE e.user_id = p_from;
    UPDATE webhook_endpoints w SET user_id = p_into WHERE w.user_id = p_from;
    UPDATE deliveries d SET user_id = p_into WHERE d.user_id = p_from;
    -- Webhooks of jobs are signed by both secrets for a day, as when one is rotated.
    INSERT INTO webhook_secrets AS w (user_id, secret, old_secret, old_secret_until)
    SELECT p_into, s.secret, s.old_secret, s.old_secret_until FROM webhook_secrets s WHERE s.user_id = p_from
    ON CONFLICT (user_id) DO UPDATE SET old_secret = excluded.secret, old_secret_until = v_now + interval '1 day';
    DELETE FROM webhook_secrets s WHERE s.user_id = p_from;
    UPDATE identities i SET user_id = p_into WHERE i.user_id = p_from;
    UPDATE api_keys k SET user_id = p_into WHERE k.user_id = p_from;
    UPDATE web_sessions w SET user_id = p_into WHERE w.user_id = p_from;
    UPDATE grants g SET user_id = p_into WHERE g.user_id = p_from;
    DELETE FROM moderation_reports m USING moderation_reports k -- both have reported the same: one report is enough
    WHERE m.reporter_id = p_from AND k.reporter_id = p_into AND m.state = 'open' AND k.state = 'open'
      AND coalesce(m.artifact_id, m.job_id) = coalesce(k.artifact_id, k.job_id);
    UPDATE moderation_reports m SET reporter_id = p_into WHERE m.reporter_id = p_from;
    UPDATE moderation_reports m SET owner_id = p_into WHERE m.owner_id = p_from;
    UPDATE former_identities f SET user_id = p_into WHERE f.user_id = p_from;
    UPDATE idempotency_keys i SET user_id = p_into WHERE i.user_id = p_from
        AND NOT EXISTS (SELECT FROM idempotency_keys o WHERE o.user_id = p_into AND o.key = i.key);
    DELETE FROM idempotency_keys i WHERE i.user_id = p_from;
    DELETE FROM operator_answers o WHERE o.user_id = p_from; -- of a day at most; the ledger has what they entered

    UPDATE user_state a
    SET queued = a.queued + b.queued, running = a.running + b.running,
        -- The rates that both have used up, together; never more than a minute's.
        tat = least(greatest(a.tat, v_now) + (greatest(b.tat, v_now) - v_now), v_now + interval '1 minute'),
        withheld = CASE WHEN a.withheld_day = v_today THEN a.withheld ELSE 0 END
                 + CASE WHEN b.withheld_day = v_today THEN b.withheld ELSE 0 END,
        withheld_day = v_today
    FROM user_state b WHERE a.user_id = p_into AND b.user_id = p_from;
    UPDATE user_state s SET queued = 0, running = 0, withheld = 0 WHERE s.user_id = p_from;

    -- What one of them began today with because an identity had left the other is counted in both: once is enough.
    WITH met AS (
        DELETE FROM carried_use c
        WHERE (c.user_id, c.from_user_id) IN ((p_from, p_into), (p_into, p_from)) RETURNING c.day, c.used_mt
    )
    SELECT coalesce(sum(m.used_mt) FILTER (WHERE m.day = v_today), 0) INTO v_carried FROM met m;
    INSERT INTO carried_use AS c (user_id, from_user_id, day, used_mt)
    SELECT CASE m.user_id WHEN p_from THEN p_into ELSE m.user_id END,
           CASE m.from_user_id WHEN p_from THEN p_into ELSE m.from_user_id END, m.day, sum(m.used_mt)
    FROM carried_use m WHERE p_from IN (m.user_id, m.from_user_id) GROUP BY 1, 2, 3
    ON CONFLICT (user_id, from_user_id, day) DO UPDATE SET used_mt = c.used_mt + excluded.used_mt;
    DELETE FROM carried_use c WHERE p_from IN (c.user_id, c.from_user_id);

    PERFORM book(coalesce((
        SELECT jsonb_agg(e.entry) FROM (
            SELECT jsonb_build_object('user_id', p_from, 'day', u.day, 'kind', u.kind, 'entry', 'adjustment',
                                      'amount_mt', -u.used_mt, 'reason', 'moved to the account that this one became part of')
            FROM usage_daily u WHERE u.user_id = p_from AND u.used_mt <> 0
            UNION ALL
            SELECT jsonb_build_object('user_id', p_into, 'day', u.day, 'kind', u.kind, 'entry', 'adjustment',
                                      'amount_mt', u.used_mt, 'reason', 'moved from an account that became part of this one')
            FROM usage_daily u WHERE u.user_id = p_from AND u.used_mt <> 0
            UNION ALL
            SELECT jsonb_build_object('user_id', p_into, 'day', v_today, 'kind', 'account', 'entry', 'adjustment',
                                      'amount_mt', -v_carried, 'reason', 'was counted in both accounts')
            WHERE v_carried > 0) e(entry)), '[]'), v_now);

    INSERT INTO audit_log (actor, action, subject, data, created_at)
    VALUES (show_id('user', p_into), 'merge_users', show_id('user', p_from),
            jsonb_build_object('into', show_id('user', p_into), 'plan', v_plan), v_now);
    PERFORM emit_events(coalesce((
        SELECT jsonb_agg(jsonb_build_object('job_id', j.id, 'user_id', p_into, 'type', 'owner_changed', 'attempt', j.attempt))
        FROM jobs j WHERE j.user_id = p_into AND j.state IN ('queued', 'running')), '[]'), v_now);
    PERFORM pg_notify('tessera_feed', 'account ' || a.id) FROM (VALUES (p_from), (p_into)) AS a(id);
    RETURN 'merged';
END $$;

-- Take up a link code: p_user_id becomes part of the user who made it. Each try counts, right or wrong: 10 in ten minutes.
-- outcome: merged; or, with nothing changed, rate_limited (retry_after_s), wrong (unknown, used or expired), own (the code
-- is the same user's), gone, operator. A code works once. Codes are locked before users, in the order of their hashes: of
-- two who take up the same one, the second finds it used, and two who take up each other's become one user, once.
CREATE OR REPLACE FUNCTION redeem_link_code(p_user_id uuid, p_hmac bytea, p_now timestamptz DEFAULT NULL)
RETURNS TABLE (outcome text, user_id uuid, retry_after_s double precision)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz;
    v_step interval := interval '1 minute';
    v_window interval := interval '10 minutes';
    v_tat timestamptz;
    v_into uuid;
    v_outcome text;
BEGIN
    INSERT INTO link_tries (user_id, tat) VALUES (p_user_id, coalesce(p_now, clock_timestamp()))
    ON CONFLICT (user_id) DO NOTHING;
    SELECT t.tat INTO v_tat FROM link_tries t WHERE t.user_id = p_user_id FOR UPDATE;
    v_now := coalesce(p_now, clock_timestamp());
    v_tat := least(greatest(v_tat, v_now), v_now + v_window);
    IF v_tat + v_step - v_now > v_window THEN
        RETURN QUERY SELECT 'rate_limited', NULL::uuid,
            extract(epoch FROM v_tat + v_step - v_now - v_window)::double precision;
        RETURN;
    END IF;
    UPDATE link_tries t SET tat = v_tat + v_step WHERE t.user_id = p_user_id;

    PERFORM 1 FROM link_codes c WHERE c.code_hmac = p_hmac OR c.user_id = p_user_id ORDER BY c.code_hmac FOR UPDATE;
    SELECT c.user_id INTO v_into FROM link_codes c WHERE c.code_hmac = p_hmac AND c.expires_at > v_now;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'wrong', NULL::uuid, NULL::double precision;
        RETURN;
    END IF;
    IF v_into = p_user_id THEN
        RETURN QUERY SELECT 'own', v_into, NULL::double precision;
        RETURN;
    END IF;
    v_outcome := merge_users(p_user_id, v_into, p_now);
    IF v_outcome = 'merged' THEN
        DELETE FROM link_codes c WHERE c.code_hmac = p_hmac OR c.user_id = p_user_id;
    END IF;
    RETURN QUERY SELECT v_outcome, v_into, NULL::double precision;
END $$;

-- Remember an identity that leaves an account by its keyed hash: what the account has used of the day, and a ban.
CREATE OR REPLACE FUNCTION remember_identity(p_hmac bytea, p_user_id uuid, p_today date) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO former_identities AS f (identity_hmac, user_id, day, used_mt, banned_at, ban_reason)
    SELECT p_hmac, u.id, p_today, greatest(0, used_on(u.id, p_today)), u.banned_at, u.ban_reason
    FROM users u WHERE u.id = p_user_id
    ON CONFLICT (identity_hmac) DO UPDATE
        SET user_id = excluded.user_id, day = excluded.day,
            used_mt = CASE WHEN f.day = excluded.day THEN greatest(f.used_mt, excluded.used_mt) ELSE excluded.used_mt END,
            banned_at = coalesce(excluded.banned_at, f.banned_at), ban_reason = coalesce(excluded.ban_reason, f.ban_reason)
$$;

-- Take an identity from a user, who keeps another one. What was used today stays used, here and for whoever comes back
-- with the identity. Answers unlinked; or, with nothing changed, unknown (it is not this user's) or last.
CREATE OR REPLACE FUNCTION unlink_identity(p_user_id uuid, p_provider text, p_subject text, p_hmac bytea,
                                           p_now timestamptz DEFAULT NULL) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_name text := p_provider || ':' || p_subject;
BEGIN
    PERFORM 1 FROM user_state s WHERE s.user_id = p_user_id FOR UPDATE;
    IF NOT EXISTS (SELECT FROM identities i WHERE i.user_id = p_user_id AND i.provider = p_provider AND i.subject = p_subject) THEN
        RETURN 'unknown';
    END IF;
    IF (SELECT count(*) FROM identities i WHERE i.user_id = p_user_id) = 1 THEN
        RETURN 'last';
    END IF;
    PERFORM remember_identity(p_hmac, p_user_id, utc_day(coalesce(p_now, clock_timestamp())));
    DELETE FROM identities i WHERE i.provider = p_provider AND i.subject = p_subject;
    -- A user who was named like the identity is named like another one, where that name is free.
    UPDATE users u SET name = n.name
    FROM (SELECT left(i.provider || ':' || i.subject, 160) AS name FROM identities i WHERE i.user_id = p_user_id
          ORDER BY i.created_at, i.id LIMIT 1) n
    WHERE u.id = p_user_id AND u.name = left(v_name, 160)
      AND NOT EXISTS (SELECT FROM users o WHERE o.name = n.name AND o.deleted_at IS NULL);
    PERFORM pg_notify('tessera_feed', 'account ' || p_user_id);
    RETURN 'unlinked';
END $$;

-- Delete an account: what a person wrote and got, names and identities go; the ledger stays under the user's id, which
-- says nobody's name. What waits is cancelled and refunded; of what runs the cancel is asked for, and erase_deleted takes
-- what it still brings. p_identities: [{provider, subject, hmac (hex)}] of all identities.
-- Answers deleted; or, with nothing changed, unknown_user, operator, or again (identities have come or gone meanwhile).
-- Safe to repeat.
CREATE OR REPLACE FUNCTION delete_account(p_user_id uuid, p_identities jsonb, p_actor text, p_now timestamptz DEFAULT NULL)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz;
    v_admin boolean;
    v_waiting uuid[];
    v_running uuid[];
BEGIN
    PERFORM 1 FROM user_state s WHERE s.user_id = p_user_id FOR UPDATE;
    PERFORM 1 FROM batches b WHERE b.user_id = p_user_id ORDER BY b.id FOR UPDATE;
    PERFORM 1 FROM jobs j WHERE j.user_id = p_user_id ORDER BY j.id FOR UPDATE;
    SELECT u.is_admin INTO v_admin FROM users u WHERE u.id = p_user_id AND u.deleted_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'unknown_user';
    END IF;
    IF v_admin THEN
        RETURN 'operator';
    END IF;
    v_now := coalesce(p_now, clock_timestamp());
    IF EXISTS (SELECT FROM (SELECT i.provider, i.subject FROM identities i WHERE i.user_id = p_user_id) i
               FULL JOIN jsonb_to_recordset(p_identities) AS x(provider text, subject text)
                    ON x.provider = i.provider AND x.subject = i.subject
               WHERE i.provider IS NULL OR x.provider IS NULL) THEN
        RETURN 'again';
    END IF;

    -- All that is much work before the lock of the feed is taken, for which everybody waits.
    PERFORM erase_jobs(ARRAY(SELECT j.id FROM jobs j WHERE j.user_id = p_user_id AND j.finished_at IS NOT NULL), v_now);
    DELETE FROM web_sessions w WHERE w.user_id = p_user_id;
    DELETE FROM deliveries d WHERE d.user_id = p_user_id;
    DELETE FROM webhook_endpoints w WHERE w.user_id = p_user_id;
    DELETE FROM webhook_secrets w WHERE w.user_id = p_user_id;
    UPDATE jobs j SET webhook = NULL, delivery = NULL WHERE j.user_id = p_user_id AND j.finished_at IS NULL;
    DELETE FROM idempotency_keys i WHERE i.user_id = p_user_id;
    UPDATE api_keys k SET revoked_at = coalesce(k.revoked_at, v_now), name = '' WHERE k.user_id = p_user_id;
    UPDATE uploads a SET deleted_at = coalesce(a.deleted_at, v_now) WHERE a.user_id = p_user_id;
    UPDATE batches b
    SET state = CASE WHEN b.ended_at IS NULL THEN 'cancelled' ELSE b.state END, ended_at = coalesce(b.ended_at, v_now),
        pause_reason = NULL, paused_until = NULL, metadata = '{}', errors = '[]', idempotency_key = NULL, body_sha256 = NULL
    WHERE b.user_id = p_user_id;
    UPDATE batch_files a SET deleted_at = coalesce(a.deleted_at, v_now), filename = '' WHERE a.user_id = p_user_id;
    UPDATE batch_lines l
    SET custom_id = '', options = NULL, error = CASE WHEN l.error IS NOT NULL THEN jsonb_build_object('code', l.error -> 'code') END
    FROM batches b WHERE b.id = l.batch_id AND b.user_id = p_user_id;
    UPDATE audit_log a SET data = a.data - 'name'
    WHERE a.subject = show_id('user', p_user_id) AND a.data ? 'name';
    UPDATE users u SET name = 'deleted ' || u.id, settings = '{}', deleted_at = coalesce(u.deleted_at, v_now)
    WHERE p_user_id IN (u.id, u.merged_into);
    INSERT INTO audit_log (actor, action, subject, created_at)
    VALUES (p_actor, 'delete_account', show_id('user', p_user_id), v_now);

    SELECT coalesce(array_agg(j.id), '{}') INTO v_waiting
    FROM jobs j WHERE j.user_id = p_user_id AND j.state IN ('created', 'queued');
    v_running := ARRAY(SELECT j.id FROM jobs j WHERE j.user_id = p_user_id AND j.state = 'running'
                       AND j.cancel_requested_at IS NULL);
    UPDATE jobs j SET cancel_requested_at = coalesce(j.cancel_requested_at, v_now)
    WHERE j.user_id = p_user_id AND j.state = 'running';
    PERFORM end_waiting(coalesce((
        SELECT jsonb_agg(jsonb_build_object('ord', w.n, 'job_id', w.id, 'to_state', 'cancelled',
                                            'reason', 'the account was deleted'))
        FROM unnest(v_waiting) WITH ORDINALITY AS w(id, n)), '[]'), v_now);
    PERFORM emit_events(coalesce((
        SELECT jsonb_agg(jsonb_build_object('job_id', j.id, 'user_id', p_user_id, 'type', 'cancel_requested',
                                            'attempt', j.attempt))
        FROM jobs j WHERE j.id = ANY (v_running)), '[]'), v_now);
    PERFORM erase_jobs(v_waiting, v_now);
    -- After the refunds: what waited never ran, and its hold was no use of the day.
    PERFORM remember_identity(decode(x.hmac, 'hex'), p_user_id, utc_day(v_now))
    FROM jsonb_to_recordset(p_identities) AS x(hmac text);
    DELETE FROM identities i WHERE i.user_id = p_user_id;
    PERFORM pg_notify('tessera_feed', 'account ' || p_user_id);
    RETURN 'deleted';
END $$;

-- Take what a person wrote and got out of jobs that have ended: prompts, results, files, words of errors. What they cost
-- and how they ended stays.
CREATE OR REPLACE FUNCTION erase_jobs(p_ids uuid[], p_now timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE jobs j
    SET input = '{}', metadata = '{}', output = NULL, webhook = NULL, delivery = NULL, request_id = '',
        error = CASE WHEN j.error IS NOT NULL THEN jsonb_build_object('code', j.error -> 'code', 'message', '') END
    WHERE j.id = ANY (p_ids);
    UPDATE attempts a SET error = jsonb_build_object('code', a.error -> 'code', 'message', '')
    WHERE a.job_id = ANY (p_ids) AND a.error IS NOT NULL;
    UPDATE artifacts a SET deleted_at = coalesce(a.deleted_at, p_now) WHERE a.job_id = ANY (p_ids);
    UPDATE job_events e SET data = '{}' WHERE e.job_id = ANY (p_ids) AND e.data <> '{}';
END $$;

-- Erase what jobs have brought that ended after their user had deleted the account; answers how many jobs.
CREATE OR REPLACE FUNCTION erase_deleted(p_now timestamptz, p_limit integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_ids uuid[];
BEGIN
    v_ids := ARRAY(SELECT j.id FROM users u JOIN jobs j ON j.user_id = u.id
                   WHERE u.deleted_at > p_now - interval '7 days' AND u.merged_into IS NULL
                     AND j.finished_at IS NOT NULL AND j.input <> '{}'
                   ORDER BY j.id LIMIT p_limit FOR UPDATE OF j SKIP LOCKED);
    PERFORM erase_jobs(v_ids, p_now);
    RETURN cardinality(v_ids);
END $$;
