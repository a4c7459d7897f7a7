-- The functions through which jobs are admitted, claimed, ended and cancelled: each is one atomic, group-committed step.
-- They are replaced as a whole at every migration, so an older process keeps working against newer bodies.
--
-- Locks are taken in one order everywhere, or concurrent batches deadlock:
--   leader, user_state ascending, batches, jobs ascending, usage_daily ascending, api_key_usage ascending, FEED.
-- All run under READ COMMITTED: a statement that only locks comes first, so that later statements read what it waited
-- for (a lock in a CTE beside a read sees the old snapshot: a cap of 20 admitted 28).

-- Lock the users of some jobs, in their order. A job can change its user while one waits (accounts are merged): to lock
-- the new one then would be out of order, so nothing is done and TS002 says to send it again (fetch_settled of
-- tessera/store/database.py does).
CREATE OR REPLACE FUNCTION lock_users_of_jobs(p_job_ids uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_users uuid[] := ARRAY(SELECT DISTINCT j.user_id FROM jobs j WHERE j.id = ANY (p_job_ids));
BEGIN
    PERFORM 1 FROM user_state s WHERE s.user_id = ANY (v_users) ORDER BY s.user_id FOR UPDATE;
    IF EXISTS (SELECT FROM jobs j WHERE j.id = ANY (p_job_ids) AND j.user_id <> ALL (v_users)) THEN
        RAISE EXCEPTION 'accounts were merged meanwhile: send it again' USING ERRCODE = 'TS002';
    END IF;
END $$;

-- A user always has a user_state.
CREATE OR REPLACE FUNCTION users_add_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO user_state (user_id) VALUES (NEW.id);
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER users_add_state AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION users_add_state();

-- The table of legal transitions, as tessera/jobs.py has it; final states absorb.
CREATE OR REPLACE FUNCTION job_transition_is_legal(p_from text, p_to text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE p_from
        WHEN 'created' THEN p_to IN ('queued', 'cancelled', 'expired')
        WHEN 'queued' THEN p_to IN ('running', 'cancelled', 'expired', 'failed')
        WHEN 'running' THEN p_to IN ('queued', 'completed', 'failed', 'cancelled')
        ELSE false END
$$;

CREATE OR REPLACE FUNCTION jobs_guard_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT job_transition_is_legal(OLD.state, NEW.state) THEN
        RAISE EXCEPTION 'job % cannot go from % to %', OLD.id, OLD.state, NEW.state
            USING ERRCODE = 'check_violation', CONSTRAINT = 'jobs_legal_transition';
    END IF;
    IF NEW.attempt < OLD.attempt THEN
        RAISE EXCEPTION 'the attempt of job % cannot fall', OLD.id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER jobs_guard_transition BEFORE UPDATE OF state ON jobs
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION jobs_guard_transition();

-- The ledger is append-only.
CREATE OR REPLACE FUNCTION token_ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'token_ledger is append-only: write an adjustment instead' USING ERRCODE = 'check_violation';
END $$;
CREATE OR REPLACE TRIGGER token_ledger_refuse_change BEFORE UPDATE OR DELETE ON token_ledger
    FOR EACH ROW EXECUTE FUNCTION token_ledger_refuse_change();
CREATE OR REPLACE TRIGGER token_ledger_refuse_truncate BEFORE TRUNCATE ON token_ledger
    FOR EACH STATEMENT EXECUTE FUNCTION token_ledger_refuse_change();

-- What a user may do: the plan's limits, replaced by the user's own where they are set.
CREATE OR REPLACE VIEW user_limits AS
SELECT u.id AS user_id, u.plan_id, p.tier,
       coalesce(u.daily_mt, p.daily_mt) AS daily_mt,
       coalesce(u.submissions_per_min, p.submissions_per_min) AS submissions_per_min,
       coalesce(u.requests_per_min, p.requests_per_min) AS requests_per_min,
       coalesce(u.max_queued, p.max_queued) AS max_queued,
       coalesce(u.max_running, p.max_running) AS max_running,
       coalesce(u.max_image_px, p.max_image_px) AS max_image_px,
       coalesce(u.max_video_s, p.max_video_s) AS max_video_s,
       coalesce(u.retention_days, p.retention_days) AS retention_days,
       u.deleted_at, u.merged_into
FROM users u JOIN plans p ON p.id = u.plan_id;

CREATE OR REPLACE FUNCTION utc_day(p_at timestamptz) RETURNS date LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (p_at AT TIME ZONE 'utc')::date
$$;

-- What a user has used of a day, all kinds together.
CREATE OR REPLACE FUNCTION used_on(p_user_id uuid, p_day date) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(u.used_mt), 0)::bigint FROM usage_daily u WHERE u.user_id = p_user_id AND u.day = p_day
$$;

-- The time that one submission takes of the rate limit: whole microseconds, rounded down, so that the allowance of a
-- minute fits into it (rounded up, a limit of 7 let 6 through).
CREATE OR REPLACE FUNCTION submission_interval(p_per_min integer) RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN p_per_min > 60000000 THEN 1 ELSE 60000000 / p_per_min END * interval '1 microsecond'
$$;

-- Append events in the order of commit. rows: [{job_id, job_seq|null, user_id, type, attempt, data, ord, outbox}]. Call it
-- last. Rows with outbox are looked at for webhooks and chats that want them; without any, that costs nothing.
CREATE OR REPLACE FUNCTION emit_events(p_rows jsonb, p_now timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF jsonb_array_length(p_rows) = 0 THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(7041); -- FEED
    INSERT INTO job_events (seq, job_id, job_seq, user_id, type, attempt, data, created_at)
    SELECT nextval('job_events_seq'), r.job_id, r.job_seq, r.user_id, r.type, r.attempt, coalesce(r.data, '{}'), p_now
    FROM (SELECT * FROM jsonb_to_recordset(p_rows)
              AS x(job_id uuid, job_seq integer, user_id uuid, type text, attempt integer, data jsonb, ord bigint)
          ORDER BY ord, job_seq) r;
    IF p_rows @> '[{"outbox": true}]' THEN
        PERFORM enqueue_deliveries(p_rows, p_now);
    END IF;
    -- 'ran': only what the scheduler itself has done, which it need not be woken for (tessera/scheduler/follower.py).
    PERFORM pg_notify('tessera_feed', CASE
        WHEN p_rows @? '$[*].type ? (@ != "started" && @ != "output" && @ != "completed")' THEN '' ELSE 'ran' END);
END $$;

-- Book ledger entries and keep usage_daily, api_key_usage and user_state in step with them; the user_state rows are locked
-- already, and a key belongs to one user, so its counter is guarded by the same lock. What a job holds, settles or gets
-- back counts for its key, on the day of the hold; an account's entries belong to no key.
-- rows: [{user_id, day, kind, entry, amount_mt, job_id, reason, actor, jobs}].
CREATE OR REPLACE FUNCTION book(p_rows jsonb, p_now timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_today date := utc_day(p_now);
BEGIN
    INSERT INTO token_ledger (user_id, day, kind, entry, amount_mt, job_id, reason, actor, created_at)
    SELECT r.user_id, r.day, r.kind, r.entry, r.amount_mt, r.job_id, coalesce(r.reason, ''), coalesce(r.actor, 'system'), p_now
    FROM jsonb_to_recordset(p_rows)
        AS r(user_id uuid, day date, kind text, entry text, amount_mt bigint, job_id uuid, reason text, actor text);

    INSERT INTO usage_daily AS u (user_id, day, kind, used_mt, jobs)
    SELECT r.user_id, r.day, r.kind, sum(r.amount_mt), sum(CASE r.entry WHEN 'hold' THEN 1 ELSE 0 END)
    FROM jsonb_to_recordset(p_rows) AS r(user_id uuid, day date, kind text, entry text, amount_mt bigint)
    GROUP BY r.user_id, r.day, r.kind
    ORDER BY r.user_id, r.day, r.kind
    ON CONFLICT (user_id, day, kind) DO UPDATE SET used_mt = u.used_mt + excluded.used_mt, jobs = u.jobs + excluded.jobs;

    INSERT INTO api_key_usage AS a (key_id, day, used_mt)
    SELECT j.api_key_id, r.day, sum(r.amount_mt)
    FROM jsonb_to_recordset(p_rows) AS r(day date, entry text, amount_mt bigint, job_id uuid)
    JOIN jobs j ON j.id = r.job_id
    WHERE j.api_key_id IS NOT NULL AND r.entry IN ('hold', 'settlement', 'refund')
    GROUP BY j.api_key_id, r.day HAVING sum(r.amount_mt) <> 0
    ORDER BY j.api_key_id, r.day
    ON CONFLICT (key_id, day) DO UPDATE SET used_mt = a.used_mt + excluded.used_mt;

    -- A hot row of another day starts from what usage_daily has of today: nothing on a new day, and what was used before
    -- where the clock was set back over midnight; else a step back would give a second quota. A row whose day lies
    -- ahead of the clock is moved at once, for the entries of its day would pass it by.
    UPDATE user_state s
    SET used_mt = CASE WHEN s.day = v_today THEN s.used_mt + coalesce(d.amount_mt, 0) ELSE used_on(s.user_id, v_today) END,
        day = v_today
    FROM (SELECT r.user_id, sum(r.amount_mt) FILTER (WHERE r.day = v_today) AS amount_mt
          FROM jsonb_to_recordset(p_rows) AS r(user_id uuid, day date, amount_mt bigint)
          GROUP BY r.user_id) d
    WHERE s.user_id = d.user_id AND (d.amount_mt IS NOT NULL OR s.day > v_today);
END $$;

-- Admit a batch of submissions: idempotency, quota, the key's daily cap, queued cap, rate, then job, hold and event, in one
-- commit.
-- rows: [{ord, id, user_id, api_key_id, kind, model, batch, input, metadata, cost_mt, not_before, deadline,
--         idempotency_key, body_sha256, webhook, delivery, moderation, request_id, retried_from, batch_id, until}], folded per
--         user in the order ord. A row that is read after its `until` is refused: whoever sent it has been told that it was
--         not accepted.
-- outcome: admitted, replayed, idempotency_mismatch, quota_exhausted, key_cap_exhausted, too_many_queued, rate_limited,
-- unknown_user (or a deleted one), merged_user (send it again for users.merged_into), too_late. With key_cap_exhausted,
-- used_mt of daily_mt are those of the API key.
-- Sending the same ids again after an ambiguous commit answers 'replayed' and changes nothing.
CREATE OR REPLACE FUNCTION admit(p_batch jsonb, p_now timestamptz DEFAULT NULL)
RETURNS TABLE (ord integer, outcome text, job_id uuid, tier text, state text, admitted_at timestamptz, used_mt bigint,
               daily_mt bigint, rate_limit integer, rate_remaining integer, retry_after_s double precision)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    r record;
    v_now timestamptz;
    v_today date;
    v_user uuid;
    v_used bigint;
    v_queued integer;
    v_tat timestamptz;
    v_step interval;
    v_keys jsonb := '{}'; -- what the API keys of this batch have used today, with what was admitted so far
    v_key_used bigint;
    v_seen record;
    v_known uuid[];
    v_accepted integer[] := '{}';
    v_outcome text;
    v_job uuid;
    v_wait double precision;
BEGIN
    PERFORM 1 FROM user_state s
    WHERE s.user_id IN (SELECT x.user_id FROM jsonb_to_recordset(p_batch) AS x(user_id uuid))
    ORDER BY s.user_id FOR UPDATE;

    v_now := coalesce(p_now, clock_timestamp()); -- after the wait for the locks: the day is that of the admission
    v_today := utc_day(v_now);
    -- An admission leaves tat at most a minute ahead; further ahead it is only when the clock was set back. Then it counts
    -- from here, or its user would be refused until the clock has caught up.
    UPDATE user_state s SET tat = v_now + interval '1 minute'
    WHERE s.user_id IN (SELECT x.user_id FROM jsonb_to_recordset(p_batch) AS x(user_id uuid))
      AND s.tat > v_now + interval '1 minute';
    v_known := ARRAY(SELECT j.id FROM jobs j
                     WHERE j.id IN (SELECT x.id FROM jsonb_to_recordset(p_batch) AS x(id uuid)));

    FOR r IN
        SELECT x.ord, x.id, x.user_id, x.api_key_id, x.batch, x.cost_mt, x.not_before, x.idempotency_key, x.body_sha256,
               x.until, l.deleted_at, l.merged_into, l.daily_mt, l.max_queued, l.submissions_per_min, l.tier, k.daily_cap_mt AS key_cap_mt,
               a.used_mt AS key_used_mt,
               s.day AS state_day, s.used_mt AS state_used_mt, s.queued AS state_queued, s.tat AS state_tat
        FROM jsonb_to_recordset(p_batch) AS x(ord integer, id uuid, user_id uuid, api_key_id text, batch boolean, cost_mt bigint,
                                              not_before timestamptz, idempotency_key text, body_sha256 text,
                                              until timestamptz)
        LEFT JOIN user_limits l ON l.user_id = x.user_id
        LEFT JOIN user_state s ON s.user_id = x.user_id
        LEFT JOIN api_keys k ON k.id = x.api_key_id
        LEFT JOIN api_key_usage a ON a.key_id = x.api_key_id AND a.day = v_today
        ORDER BY x.user_id, x.ord
    LOOP
        IF v_user IS DISTINCT FROM r.user_id THEN
            v_user := r.user_id;
            v_used := CASE WHEN r.state_day = v_today THEN r.state_used_mt ELSE used_on(r.user_id, v_today) END;
            v_queued := r.state_queued;
            v_tat := r.state_tat;
        END IF;
        v_key_used := coalesce((v_keys ->> r.api_key_id)::bigint, r.key_used_mt, 0);
        v_job := r.id;
        v_wait := NULL;
        v_outcome := 'admitted';
        v_tat := greatest(v_tat, v_now);
        v_step := submission_interval(r.submissions_per_min);
        IF r.merged_into IS NOT NULL THEN
            v_outcome := 'merged_user';
        ELSIF r.tier IS NULL OR r.deleted_at IS NOT NULL THEN
            v_outcome := 'unknown_user';
        ELSIF r.id = ANY (v_known) THEN
            v_outcome := 'replayed';
        ELSIF r.idempotency_key IS NOT NULL THEN
            SELECT i.body_sha256, i.job_id INTO v_seen FROM idempotency_keys i
            WHERE i.user_id = r.user_id AND i.key = r.idempotency_key AND i.created_at > v_now - interval '24 hours';
            IF FOUND THEN
                v_job := v_seen.job_id;
                v_outcome := CASE WHEN v_seen.body_sha256 = decode(r.body_sha256, 'hex')
                                  THEN 'replayed' ELSE 'idempotency_mismatch' END;
            END IF;
        END IF;
        IF v_outcome = 'admitted' AND r.until < clock_timestamp() THEN
            v_outcome := 'too_late';
        END IF;
        IF v_outcome = 'admitted' THEN
            IF v_used + r.cost_mt > r.daily_mt THEN
                v_outcome := 'quota_exhausted';
                v_wait := extract(epoch FROM ((v_today + 1)::timestamp AT TIME ZONE 'utc') - v_now);
            ELSIF v_key_used + r.cost_mt > r.key_cap_mt THEN
                v_outcome := 'key_cap_exhausted';
                v_wait := extract(epoch FROM ((v_today + 1)::timestamp AT TIME ZONE 'utc') - v_now);
            ELSIF v_queued >= r.max_queued THEN
                v_outcome := 'too_many_queued';
                v_wait := 5;
            ELSIF v_tat + v_step - v_now > interval '1 minute' THEN
                v_outcome := 'rate_limited';
                v_wait := extract(epoch FROM v_tat + v_step - v_now - interval '1 minute');
            ELSE
                v_used := v_used + r.cost_mt;
                v_queued := v_queued + 1;
                v_tat := v_tat + v_step;
                v_accepted := v_accepted || r.ord;
                v_known := v_known || r.id;
                IF r.key_cap_mt IS NOT NULL THEN
                    v_keys := v_keys || jsonb_build_object(r.api_key_id, v_key_used + r.cost_mt);
                END IF;
                IF r.idempotency_key IS NOT NULL THEN
                    INSERT INTO idempotency_keys AS i (user_id, key, body_sha256, job_id, created_at)
                    VALUES (r.user_id, r.idempotency_key, decode(r.body_sha256, 'hex'), r.id, v_now)
                    ON CONFLICT (user_id, key) DO UPDATE
                        SET body_sha256 = excluded.body_sha256, job_id = excluded.job_id, created_at = excluded.created_at;
                END IF;
            END IF;
        END IF;
        RETURN QUERY SELECT r.ord, v_outcome, v_job, CASE WHEN r.batch THEN 'batch' ELSE r.tier END,
            CASE WHEN v_outcome <> 'admitted' THEN NULL WHEN r.not_before > v_now THEN 'created' ELSE 'queued' END, v_now,
            CASE WHEN v_outcome = 'key_cap_exhausted' THEN v_key_used ELSE v_used END,
            CASE WHEN v_outcome = 'key_cap_exhausted' THEN r.key_cap_mt ELSE r.daily_mt END, r.submissions_per_min,
            floor(extract(epoch FROM interval '1 minute' - (v_tat - v_now)) / extract(epoch FROM v_step))::integer, v_wait;
    END LOOP;

    IF cardinality(v_accepted) = 0 THEN
        RETURN;
    END IF;

    INSERT INTO jobs (id, user_id, api_key_id, batch_id, retried_from, kind, model, tier, state, input, metadata, day, cost_mt,
                      not_before, deadline, last_job_seq, webhook, delivery, moderation, request_id, created_at, queued_at)
    SELECT x.id, x.user_id, x.api_key_id, x.batch_id, x.retried_from, x.kind, x.model,
           CASE WHEN x.batch THEN 'batch' ELSE l.tier END,
           CASE WHEN x.not_before > v_now THEN 'created' ELSE 'queued' END,
           x.input, coalesce(x.metadata, '{}'), v_today, x.cost_mt, x.not_before, x.deadline, 1, x.webhook, x.delivery,
           x.moderation,
           coalesce(x.request_id, ''), v_now, CASE WHEN x.not_before > v_now THEN NULL ELSE v_now END
    FROM jsonb_to_recordset(p_batch) AS x(ord integer, id uuid, user_id uuid, api_key_id text, retried_from uuid, kind text,
             model text, batch boolean, input jsonb, metadata jsonb, cost_mt bigint, not_before timestamptz,
             deadline timestamptz, webhook jsonb, delivery jsonb, moderation jsonb, request_id text, batch_id uuid)
    JOIN user_limits l ON l.user_id = x.user_id
    WHERE x.ord = ANY (v_accepted)
    ORDER BY x.id;

    UPDATE user_state s
    SET queued = s.queued + d.n,
        tat = greatest(s.tat, v_now) + d.n * submission_interval(l.submissions_per_min)
    FROM (SELECT x.user_id, count(*)::integer AS n
          FROM jsonb_to_recordset(p_batch) AS x(ord integer, user_id uuid)
          WHERE x.ord = ANY (v_accepted) GROUP BY x.user_id) d
    JOIN user_limits l ON l.user_id = d.user_id
    WHERE s.user_id = d.user_id;

    PERFORM book((SELECT jsonb_agg(jsonb_build_object('user_id', j.user_id, 'day', j.day, 'kind', j.kind, 'entry', 'hold',
                                                      'amount_mt', j.cost_mt, 'job_id', j.id))
                  FROM jobs j JOIN jsonb_to_recordset(p_batch) AS x(ord integer, id uuid) ON x.id = j.id
                  WHERE x.ord = ANY (v_accepted)), v_now);

    PERFORM emit_events((SELECT jsonb_agg(jsonb_build_object('job_id', j.id, 'job_seq', 1, 'user_id', j.user_id,
                                                             'type', j.state, 'attempt', 0, 'ord', x.ord))
                         FROM jobs j JOIN jsonb_to_recordset(p_batch) AS x(ord integer, id uuid) ON x.id = j.id
                         WHERE x.ord = ANY (v_accepted)), v_now);
END $$;

-- Every transaction of a scheduler starts here: a scheduler that no longer leads must not write.
CREATE OR REPLACE FUNCTION assert_leader(p_epoch bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_epoch bigint;
BEGIN
    SELECT l.epoch INTO v_epoch FROM leader l FOR SHARE;
    IF v_epoch IS DISTINCT FROM p_epoch THEN
        RAISE EXCEPTION 'epoch % no longer leads, % does', p_epoch, v_epoch USING ERRCODE = 'TS001';
    END IF;
END $$;

-- Claim queued jobs for workers: [{job_id, attempt, worker, ord}]. What cannot be claimed any more (cancelled, expired, not
-- due, its user at the running cap, run since by another attempt) is left out of the answer.
CREATE OR REPLACE FUNCTION claim(p_epoch bigint, p_claims jsonb, p_lease_s double precision, p_now timestamptz DEFAULT NULL)
RETURNS TABLE (job_id uuid, attempt integer, worker text, kind text, model text, input jsonb, request_id text,
               cost_mt bigint, user_id uuid)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz;
    v_ids uuid[];
BEGIN
    PERFORM assert_leader(p_epoch);
    PERFORM lock_users_of_jobs(ARRAY(SELECT x.job_id FROM jsonb_to_recordset(p_claims) AS x(job_id uuid)));
    v_now := coalesce(p_now, clock_timestamp());
    PERFORM 1 FROM jobs j WHERE j.id IN (SELECT x.job_id FROM jsonb_to_recordset(p_claims) AS x(job_id uuid))
    ORDER BY j.id FOR UPDATE;

    WITH asked AS (
        SELECT x.job_id, x.worker, x.ord,
               row_number() OVER (PARTITION BY j.user_id ORDER BY x.ord) AS nth, s.running, l.max_running
        FROM jsonb_to_recordset(p_claims) AS x(job_id uuid, attempt integer, worker text, ord integer)
        JOIN jobs j ON j.id = x.job_id AND j.attempt = coalesce(x.attempt, j.attempt)
        JOIN user_state s ON s.user_id = j.user_id
        JOIN user_limits l ON l.user_id = j.user_id
        WHERE j.state = 'queued' AND j.cancel_requested_at IS NULL
          AND (j.not_before IS NULL OR j.not_before <= v_now) AND (j.deadline IS NULL OR j.deadline > v_now)
    ), taken AS (
        UPDATE jobs j
        SET state = 'running', attempt = j.attempt + 1, worker = a.worker, started_at = v_now,
            lease_expires_at = v_now + make_interval(secs => p_lease_s), last_job_seq = j.last_job_seq + 1
        FROM asked a
        WHERE j.id = a.job_id AND a.running + a.nth <= a.max_running
        RETURNING j.id, j.attempt
    ), tried AS (
        INSERT INTO attempts (job_id, attempt, worker, started_at)
        SELECT t.id, t.attempt, a.worker, v_now FROM taken t JOIN asked a ON a.job_id = t.id
    )
    SELECT array_agg(t.id) INTO v_ids FROM taken t;

    UPDATE user_state s SET queued = s.queued - d.n, running = s.running + d.n
    FROM (SELECT j.user_id, count(*)::integer AS n FROM jobs j WHERE j.id = ANY (v_ids) GROUP BY j.user_id) d
    WHERE s.user_id = d.user_id;

    PERFORM emit_events(coalesce((
        SELECT jsonb_agg(jsonb_build_object('job_id', j.id, 'job_seq', j.last_job_seq, 'user_id', j.user_id, 'type', 'started',
                                            'attempt', j.attempt, 'data', jsonb_build_object('worker', j.worker),
                                            'outbox', j.webhook IS NOT NULL OR j.delivery IS NOT NULL
                                            OR EXISTS (SELECT FROM webhook_endpoints w
                                                       WHERE w.user_id = j.user_id AND w.disabled_at IS NULL AND w.deleted_at IS NULL)))
        FROM jobs j WHERE j.id = ANY (v_ids)), '[]'), v_now);
    RETURN QUERY SELECT j.id, j.attempt, j.worker, j.kind, j.model, j.input, j.request_id, j.cost_mt, j.user_id
                 FROM jobs j WHERE j.id = ANY (v_ids);
END $$;

-- Give back or settle what ended jobs held. rows: [{job_id, user_id, kind, day, cost_mt, charged_mt, state, ours, reason}].
-- A job that completed or is charged in full is settled; any other is refunded what it was not charged. Where the day of
-- the hold is over and the cause was ours, an equal grant is valid today.
CREATE OR REPLACE FUNCTION settle(p_rows jsonb, p_now timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM book(coalesce((
        SELECT jsonb_agg(e.entry) FROM jsonb_to_recordset(p_rows)
            AS r(job_id uuid, user_id uuid, kind text, day date, cost_mt bigint, charged_mt bigint, state text, ours boolean,
                 reason text)
        CROSS JOIN LATERAL (
            SELECT jsonb_build_object('user_id', r.user_id, 'day', r.day, 'kind', r.kind, 'job_id', r.job_id,
                       'reason', r.reason, 'amount_mt', r.charged_mt - r.cost_mt,
                       'entry', CASE WHEN r.state = 'completed' OR r.charged_mt = r.cost_mt
                                     THEN 'settlement' ELSE 'refund' END) AS entry
            UNION ALL
            SELECT jsonb_build_object('user_id', r.user_id, 'day', utc_day(p_now), 'kind', 'account', 'job_id', r.job_id,
                       'reason', 'refund of a day that is over', 'amount_mt', r.charged_mt - r.cost_mt, 'entry', 'grant')
            WHERE r.ours AND r.charged_mt < r.cost_mt AND r.day < utc_day(p_now)
        ) e), '[]'), p_now);
END $$;

-- End or requeue runs, fenced by their attempt; a late row of an old attempt is left out of the answer and changes nothing.
-- rows: [{ord, job_id, attempt, outcome, charged_mt, output, error, artifacts, ours, reason, retry_at, failed}]
--   outcome: completed, failed, cancelled, requeued. A requeue of a job whose cancel was asked for cancels it.
--   artifacts: [{id, index, sha256, media_type, bytes, width, height, duration_s, thumbnail_sha256}]
--   failed: whether a requeue uses up the retry budget.
--   ours: whether what is given back is our fault. A failure is unless the row says no; a completed job only where the row
--   says so (files are missing); what a user has cancelled never is.
-- A result that the safety rules withheld (a failure with the code content_withheld) is refunded three times a UTC day and
-- user, and charged from the fourth on; the counter is in user_state.
CREATE OR REPLACE FUNCTION finish(p_epoch bigint, p_rows jsonb, p_now timestamptz DEFAULT NULL)
RETURNS TABLE (job_id uuid, state text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz;
    v_today date;
    v_done jsonb;
BEGIN
    PERFORM assert_leader(p_epoch);
    PERFORM lock_users_of_jobs(ARRAY(SELECT x.job_id FROM jsonb_to_recordset(p_rows) AS x(job_id uuid)));
    v_now := coalesce(p_now, clock_timestamp());
    v_today := utc_day(v_now);
    PERFORM 1 FROM jobs j WHERE j.id IN (SELECT x.job_id FROM jsonb_to_recordset(p_rows) AS x(job_id uuid))
    ORDER BY j.id FOR UPDATE;

    WITH decided AS (
        SELECT r.ord, j.id, j.attempt, j.user_id, j.kind, j.day, j.cost_mt, j.last_job_seq, v.to_state,
               CASE v.to_state WHEN 'completed' THEN coalesce(r.charged_mt, j.cost_mt)
                               WHEN 'cancelled' THEN coalesce(r.charged_mt, 0)
                               WHEN 'failed' THEN CASE WHEN v.withheld AND 3 <
                                       CASE WHEN s.withheld_day = v_today THEN s.withheld ELSE 0 END
                                       + row_number() OVER (PARTITION BY j.user_id, v.withheld ORDER BY r.ord)
                                   THEN j.cost_mt ELSE 0 END END AS charged_mt,
               CASE WHEN v.to_state = 'completed' THEN r.output END AS output,
               CASE WHEN v.to_state = 'completed' THEN coalesce(r.artifacts, '[]') ELSE '[]' END AS artifacts,
               r.error, v.withheld, coalesce(r.reason, '') AS reason, r.retry_at, coalesce(r.failed, false) AS failed,
               r.outcome,
               j.webhook IS NOT NULL OR j.delivery IS NOT NULL
                   OR EXISTS (SELECT FROM webhook_endpoints w
                              WHERE w.user_id = j.user_id AND w.disabled_at IS NULL AND w.deleted_at IS NULL) AS outbox,
               CASE v.to_state WHEN 'failed' THEN coalesce(r.ours, true) WHEN 'completed' THEN coalesce(r.ours, false)
                               ELSE false END AS ours
        FROM jsonb_to_recordset(p_rows) AS r(ord integer, job_id uuid, attempt integer, outcome text, charged_mt bigint,
                 output jsonb, error jsonb, artifacts jsonb, ours boolean, reason text, retry_at timestamptz, failed boolean)
        JOIN jobs j ON j.id = r.job_id AND j.attempt = r.attempt AND j.state = 'running'
        JOIN user_state s ON s.user_id = j.user_id
        CROSS JOIN LATERAL (SELECT CASE WHEN r.outcome <> 'requeued' THEN r.outcome
                                        WHEN j.cancel_requested_at IS NULL THEN 'queued' ELSE 'cancelled' END AS to_state,
                                   r.outcome = 'failed' AND coalesce(r.error ->> 'code' = 'content_withheld', false)
                                       AS withheld) v
    ), ended AS (
        UPDATE jobs j
        SET state = d.to_state, worker = NULL, lease_expires_at = NULL,
            output = d.output, error = CASE WHEN d.to_state = 'failed' THEN d.error END,
            charged_mt = d.charged_mt, finished_at = CASE WHEN d.to_state <> 'queued' THEN v_now END,
            not_before = CASE WHEN d.to_state = 'queued' THEN d.retry_at ELSE j.not_before END,
            failures = j.failures + CASE WHEN d.failed THEN 1 ELSE 0 END,
            last_job_seq = j.last_job_seq + jsonb_array_length(d.artifacts) + 1
        FROM decided d WHERE j.id = d.id
    ), tried AS (
        UPDATE attempts a
        SET finished_at = v_now, error = d.error,
            outcome = CASE d.to_state WHEN 'queued' THEN 'requeued' ELSE d.to_state END
        FROM decided d WHERE a.job_id = d.id AND a.attempt = d.attempt
    ), stored AS (
        INSERT INTO artifacts (id, job_id, user_id, index, sha256, media_type, bytes, width, height, duration_s,
                               thumbnail_sha256, created_at)
        SELECT a.id, d.id, d.user_id, a.index, a.sha256, a.media_type, a.bytes, a.width, a.height, a.duration_s,
               a.thumbnail_sha256, v_now
        FROM decided d CROSS JOIN LATERAL jsonb_to_recordset(d.artifacts) AS a(id uuid, index integer, sha256 text,
            media_type text, bytes bigint, width integer, height integer, duration_s double precision, thumbnail_sha256 text)
    )
    SELECT coalesce(jsonb_agg(to_jsonb(d)), '[]') INTO v_done FROM decided d;

    UPDATE user_state s
    SET running = s.running - d.n, queued = s.queued + d.requeued,
        withheld = CASE WHEN s.withheld_day = v_today OR d.withheld = 0 THEN s.withheld ELSE 0 END + d.withheld,
        withheld_day = CASE WHEN d.withheld > 0 THEN v_today ELSE s.withheld_day END
    FROM (SELECT r.user_id, count(*)::integer AS n, (count(*) FILTER (WHERE r.to_state = 'queued'))::integer AS requeued,
                 (count(*) FILTER (WHERE r.withheld))::integer AS withheld
          FROM jsonb_to_recordset(v_done) AS r(user_id uuid, to_state text, withheld boolean) GROUP BY r.user_id) d
    WHERE s.user_id = d.user_id;

    PERFORM settle(coalesce((
        SELECT jsonb_agg(jsonb_build_object('job_id', r.id, 'user_id', r.user_id, 'kind', r.kind, 'day', r.day,
                   'cost_mt', r.cost_mt, 'charged_mt', r.charged_mt, 'state', r.to_state, 'ours', r.ours, 'reason', r.reason))
        FROM jsonb_to_recordset(v_done) AS r(id uuid, user_id uuid, kind text, day date, cost_mt bigint, charged_mt bigint,
                                             to_state text, ours boolean, reason text)
        WHERE r.to_state <> 'queued'), '[]'), v_now);

    PERFORM emit_events(coalesce((
        SELECT jsonb_agg(e.event) FROM jsonb_to_recordset(v_done)
            AS r(ord bigint, id uuid, user_id uuid, attempt integer, last_job_seq integer, to_state text, artifacts jsonb,
                 error jsonb, output jsonb, reason text, retry_at timestamptz, charged_mt bigint, cost_mt bigint,
                 outbox boolean)
        CROSS JOIN LATERAL (
            SELECT jsonb_build_object('ord', r.ord, 'job_id', r.id, 'job_seq', r.last_job_seq + a.nth, 'user_id', r.user_id,
                       'type', 'output', 'attempt', r.attempt, 'outbox', r.outbox, 'data', a.artifact) AS event
            FROM jsonb_array_elements(r.artifacts) WITH ORDINALITY AS a(artifact, nth)
            UNION ALL
            SELECT jsonb_build_object('ord', r.ord, 'job_id', r.id,
                       'job_seq', r.last_job_seq + jsonb_array_length(r.artifacts) + 1, 'user_id', r.user_id,
                       'type', r.to_state, 'attempt', r.attempt, 'outbox', r.outbox,
                       'data', CASE r.to_state
                           WHEN 'queued' THEN jsonb_build_object('reason', r.reason, 'retry_at', r.retry_at, 'error', r.error)
                           ELSE jsonb_strip_nulls(jsonb_build_object('charged_mt', r.charged_mt,
                                    'refunded_mt', r.cost_mt - r.charged_mt, 'error', r.error)) END)
        ) e), '[]'), v_now);
    RETURN QUERY SELECT r.id, r.to_state FROM jsonb_to_recordset(v_done) AS r(id uuid, to_state text);
END $$;

-- End jobs that wait (created or queued), all refunded: rows: [{ord, job_id, to_state, error, reason}], to_state one of
-- cancelled, expired, failed.
CREATE OR REPLACE FUNCTION end_waiting(p_rows jsonb, p_now timestamptz DEFAULT NULL) RETURNS TABLE (job_id uuid, state text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz;
    v_done jsonb;
BEGIN
    PERFORM lock_users_of_jobs(ARRAY(SELECT x.job_id FROM jsonb_to_recordset(p_rows) AS x(job_id uuid)));
    v_now := coalesce(p_now, clock_timestamp());
    PERFORM 1 FROM jobs j WHERE j.id IN (SELECT x.job_id FROM jsonb_to_recordset(p_rows) AS x(job_id uuid))
    ORDER BY j.id FOR UPDATE;

    WITH decided AS (
        SELECT r.ord, j.id, j.user_id, j.kind, j.day, j.cost_mt, j.last_job_seq, j.attempt, r.to_state, r.error,
               coalesce(r.reason, '') AS reason,
               j.webhook IS NOT NULL OR j.delivery IS NOT NULL
                   OR EXISTS (SELECT FROM webhook_endpoints w
                              WHERE w.user_id = j.user_id AND w.disabled_at IS NULL AND w.deleted_at IS NULL) AS outbox
        FROM jsonb_to_recordset(p_rows) AS r(ord integer, job_id uuid, to_state text, error jsonb, reason text)
        JOIN jobs j ON j.id = r.job_id AND j.state IN ('created', 'queued')
    ), ended AS (
        UPDATE jobs j SET state = d.to_state, error = d.error, charged_mt = 0, finished_at = v_now,
                          cancel_requested_at = CASE d.to_state WHEN 'cancelled' THEN coalesce(j.cancel_requested_at, v_now) END,
                          last_job_seq = j.last_job_seq + 1
        FROM decided d WHERE j.id = d.id
    )
    SELECT coalesce(jsonb_agg(to_jsonb(d)), '[]') INTO v_done FROM decided d;

    UPDATE user_state s SET queued = s.queued - d.n
    FROM (SELECT r.user_id, count(*)::integer AS n FROM jsonb_to_recordset(v_done) AS r(user_id uuid) GROUP BY r.user_id) d
    WHERE s.user_id = d.user_id;

    PERFORM settle(coalesce((
        SELECT jsonb_agg(jsonb_build_object('job_id', r.id, 'user_id', r.user_id, 'kind', r.kind, 'day', r.day,
                   'cost_mt', r.cost_mt, 'charged_mt', 0, 'state', r.to_state, 'ours', r.to_state <> 'cancelled',
                   'reason', r.reason))
        FROM jsonb_to_recordset(v_done) AS r(id uuid, user_id uuid, kind text, day date, cost_mt bigint, to_state text,
                                             reason text)), '[]'), v_now);

    PERFORM emit_events(coalesce((
        SELECT jsonb_agg(jsonb_build_object('ord', r.ord, 'job_id', r.id, 'job_seq', r.last_job_seq + 1, 'user_id', r.user_id,
                   'type', r.to_state, 'attempt', r.attempt, 'outbox', r.outbox,
                   'data', jsonb_strip_nulls(jsonb_build_object('charged_mt', 0, 'refunded_mt', r.cost_mt, 'error', r.error))))
        FROM jsonb_to_recordset(v_done) AS r(ord bigint, id uuid, user_id uuid, attempt integer, last_job_seq integer,
                                             to_state text, cost_mt bigint, error jsonb, outbox boolean)), '[]'), v_now);
    RETURN QUERY SELECT r.id, r.to_state FROM jsonb_to_recordset(v_done) AS r(id uuid, to_state text);
END $$;

-- A user's wish to cancel: a waiting job is cancelled here and now, a running one is marked and the scheduler told.
-- Answers the job's state afterwards, or nothing when the user has no such job. Safe to repeat.
CREATE OR REPLACE FUNCTION request_cancel(p_job_id uuid, p_user_id uuid, p_now timestamptz DEFAULT NULL) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz;
    v_state text;
    v_attempt integer;
    v_asked timestamptz;
BEGIN
    PERFORM 1 FROM user_state s WHERE s.user_id = p_user_id FOR UPDATE;
    v_now := coalesce(p_now, clock_timestamp());
    SELECT j.state, j.attempt, j.cancel_requested_at INTO v_state, v_attempt, v_asked
    FROM jobs j WHERE j.id = p_job_id AND j.user_id = p_user_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF v_state IN ('created', 'queued') THEN
        PERFORM end_waiting(jsonb_build_array(jsonb_build_object('ord', 0, 'job_id', p_job_id, 'to_state', 'cancelled',
                                                                 'reason', 'cancelled while waiting')), v_now);
        RETURN 'cancelled';
    END IF;
    IF v_state = 'running' AND v_asked IS NULL THEN
        UPDATE jobs SET cancel_requested_at = v_now WHERE id = p_job_id;
        PERFORM emit_events(jsonb_build_array(jsonb_build_object('ord', 0, 'job_id', p_job_id, 'user_id', p_user_id,
                                                                 'type', 'cancel_requested', 'attempt', v_attempt)), v_now);
    END IF;
    RETURN v_state;
END $$;

-- created → queued for whatever is due; answers how many.
CREATE OR REPLACE FUNCTION promote_due(p_epoch bigint, p_now timestamptz DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz := coalesce(p_now, clock_timestamp());
    v_ids uuid[];
BEGIN
    PERFORM assert_leader(p_epoch);
    v_ids := ARRAY(SELECT j.id FROM jobs j WHERE j.state = 'created' AND j.not_before <= v_now
                   ORDER BY j.id LIMIT 1000 FOR UPDATE SKIP LOCKED);
    UPDATE jobs SET state = 'queued', queued_at = v_now, last_job_seq = last_job_seq + 1 WHERE id = ANY (v_ids);
    PERFORM emit_events(coalesce((
        SELECT jsonb_agg(jsonb_build_object('job_id', j.id, 'job_seq', j.last_job_seq, 'user_id', j.user_id,
                                            'type', 'queued', 'attempt', j.attempt,
                                            'outbox', j.webhook IS NOT NULL OR j.delivery IS NOT NULL
                                            OR EXISTS (SELECT FROM webhook_endpoints w
                                                       WHERE w.user_id = j.user_id AND w.disabled_at IS NULL AND w.deleted_at IS NULL)))
        FROM jobs j WHERE j.id = ANY (v_ids)), '[]'), v_now);
    RETURN cardinality(v_ids);
END $$;

-- Put a user on another plan, at once: the plan's row in grants, the tiers of the jobs that wait or run (batch work stays
-- what it is), a row in audit_log, and an event for each of those jobs, by which the scheduler's mirror follows.
-- Answers changed; unchanged (an operator's repetition) or repeated (a payment of this source and reference is known
-- already), in both of which nothing is written; renewed (a new payment for the plan that the user has); or unknown_user.
CREATE OR REPLACE FUNCTION change_plan(p_user_id uuid, p_plan_id text, p_actor text, p_subject text, p_grant_id uuid,
                                       p_source text DEFAULT 'operator', p_reference text DEFAULT NULL,
                                       p_amount_usd_cents integer DEFAULT 0, p_ends_at timestamptz DEFAULT NULL,
                                       p_now timestamptz DEFAULT NULL) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz;
    v_before text;
BEGIN
    PERFORM 1 FROM user_state s WHERE s.user_id = p_user_id FOR UPDATE;
    v_now := coalesce(p_now, clock_timestamp());
    SELECT u.plan_id INTO v_before FROM users u WHERE u.id = p_user_id AND u.deleted_at IS NULL;
    IF NOT FOUND THEN
        RETURN 'unknown_user';
    END IF;
    IF p_source = 'operator' AND v_before = p_plan_id THEN
        RETURN 'unchanged';
    END IF;
    PERFORM 1 FROM jobs j WHERE j.user_id = p_user_id AND j.state IN ('created', 'queued', 'running') ORDER BY j.id FOR UPDATE;

    INSERT INTO grants (id, user_id, plan_id, source, reference, amount_usd_cents, starts_at, ends_at)
    VALUES (p_grant_id, p_user_id, p_plan_id, p_source, p_reference, p_amount_usd_cents, v_now, p_ends_at)
    ON CONFLICT ON CONSTRAINT grants_reference DO NOTHING;
    IF NOT FOUND THEN
        RETURN 'repeated';
    END IF;
    UPDATE users SET plan_id = p_plan_id WHERE id = p_user_id AND plan_id <> p_plan_id;
    UPDATE jobs j SET tier = p.tier
    FROM plans p
    WHERE p.id = p_plan_id AND j.user_id = p_user_id AND j.state IN ('created', 'queued', 'running')
      AND j.tier <> 'batch' AND j.tier <> p.tier;

    INSERT INTO audit_log (actor, action, subject, data, created_at)
    VALUES (p_actor, 'set_plan', p_subject,
            jsonb_strip_nulls(jsonb_build_object('from', v_before, 'to', p_plan_id, 'source', p_source,
                                                 'reference', p_reference)), v_now);
    IF v_before = p_plan_id THEN
        RETURN 'renewed';
    END IF;
    PERFORM emit_events(coalesce((
        SELECT jsonb_agg(jsonb_build_object('job_id', j.id, 'user_id', p_user_id, 'type', 'plan_changed',
                                            'attempt', j.attempt))
        FROM jobs j WHERE j.user_id = p_user_id AND j.state IN ('queued', 'running')), '[]'), v_now);
    RETURN 'changed';
END $$;

-- An operator's entry in a user's account: a grant for today (amount_mt below zero: more room) or an adjustment of a day,
-- with its row in audit_log. p_day NULL is today. Answers that day's use after it; no row for a user that there is not.
CREATE OR REPLACE FUNCTION enter_by_hand(p_user_id uuid, p_entry text, p_amount_mt bigint, p_day date, p_reason text,
                                         p_actor text, p_subject text, p_now timestamptz DEFAULT NULL)
RETURNS TABLE (day date, used_mt bigint, daily_mt bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz;
    v_day date;
BEGIN
    PERFORM 1 FROM user_state s WHERE s.user_id = p_user_id FOR UPDATE;
    v_now := coalesce(p_now, clock_timestamp());
    v_day := coalesce(p_day, utc_day(v_now));
    IF NOT EXISTS (SELECT FROM users u WHERE u.id = p_user_id AND u.deleted_at IS NULL) THEN
        RETURN;
    END IF;
    PERFORM book(jsonb_build_array(jsonb_build_object('user_id', p_user_id, 'day', v_day, 'kind', 'account',
                                                      'entry', p_entry, 'amount_mt', p_amount_mt, 'reason', p_reason,
                                                      'actor', p_actor)), v_now);
    INSERT INTO audit_log (actor, action, subject, data, created_at)
    VALUES (p_actor, p_entry, p_subject,
            jsonb_build_object('amount_mt', p_amount_mt, 'day', v_day, 'reason', p_reason), v_now);
    RETURN QUERY SELECT v_day, used_on(p_user_id, v_day), l.daily_mt FROM user_limits l WHERE l.user_id = p_user_id;
END $$;
