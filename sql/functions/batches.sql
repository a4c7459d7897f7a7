-- The functions of batches. Locks: user_state, then the batch, then jobs and what follows them (see jobs.sql).

-- Make jobs of the next lines of a batch, as many as there is room for, and note what became of each, in one commit.
-- rows: [{line, end_byte, custom_id, options, error, job}] in the order of the file; job is a row of admit, or error says
-- why the line makes none. p_from_line is the number of lines read so far: it fences, for who prepared other lines than
-- the next ones changes nothing. p_is_end: these are the last.
--
-- A batch leaves room for its user's other work: half of the queue, and half of the submissions of a minute. What the day's
-- quota or the key's cap cannot pay waits for the next day; a line that costs more than a whole day has is refused.
-- outcome: taken (all of them), moved (nothing was done: the batch is elsewhere), or why it stopped before the end of the
-- rows: quota_exhausted, key_cap_exhausted, too_many_queued, rate_limited, with the seconds after which to try again.
CREATE OR REPLACE FUNCTION expand_batch(p_batch_id uuid, p_from_line integer, p_rows jsonb, p_is_end boolean,
                                        p_now timestamptz DEFAULT NULL)
RETURNS TABLE (outcome text, taken integer, jobs integer, retry_after_s double precision)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz;
    v_today date;
    v_batch record;
    v_user record;
    v_room integer;
    v_rate integer;
    v_step interval;
    v_used bigint;
    v_key_used bigint;
    r record;
    v_cost bigint;
    v_error jsonb;
    v_outcome text := 'taken';
    v_wait double precision;
    v_taken integer := 0;
    v_jobs jsonb := '[]';
    v_lines jsonb := '[]';
    v_line integer := p_from_line;
    v_byte bigint;
    v_admitted integer;
    v_owner uuid := (SELECT b.user_id FROM batches b WHERE b.id = p_batch_id);
BEGIN
    PERFORM 1 FROM user_state s WHERE s.user_id = v_owner FOR UPDATE;
    SELECT b.user_id, b.api_key_id, b.state, b.next_line, b.next_byte INTO v_batch
    FROM batches b WHERE b.id = p_batch_id FOR UPDATE;
    IF NOT FOUND OR v_batch.state NOT IN ('expanding', 'paused') OR v_batch.next_line <> p_from_line
       OR v_batch.user_id <> v_owner THEN -- accounts were merged meanwhile
        RETURN QUERY SELECT 'moved', 0, 0, NULL::double precision;
        RETURN;
    END IF;
    v_now := coalesce(p_now, clock_timestamp());
    v_today := utc_day(v_now);
    v_byte := v_batch.next_byte;

    SELECT l.daily_mt, l.max_queued, l.submissions_per_min, s.day, s.used_mt, s.queued, s.tat, k.daily_cap_mt AS key_cap_mt,
           coalesce(a.used_mt, 0) AS key_used_mt INTO v_user
    FROM user_state s JOIN user_limits l ON l.user_id = s.user_id
    LEFT JOIN api_keys k ON k.id = v_batch.api_key_id
    LEFT JOIN api_key_usage a ON a.key_id = k.id AND a.day = v_today
    WHERE s.user_id = v_batch.user_id;
    v_used := CASE WHEN v_user.day = v_today THEN v_user.used_mt ELSE used_on(v_batch.user_id, v_today) END;
    v_key_used := v_user.key_used_mt;
    v_step := submission_interval(v_user.submissions_per_min);
    v_room := greatest(0, (v_user.max_queued + 1) / 2 - v_user.queued);
    v_rate := floor(extract(epoch FROM interval '1 minute' - greatest(v_user.tat - v_now, interval '0'))
                    / extract(epoch FROM v_step))::integer - v_user.submissions_per_min / 2;

    FOR r IN
        SELECT x.line, x.end_byte, x.custom_id, x.options, x.error, x.job
        FROM jsonb_to_recordset(p_rows) AS x(line integer, end_byte bigint, custom_id text, options jsonb, error jsonb, job jsonb)
        ORDER BY x.line
    LOOP
        v_error := r.error;
        IF v_error IS NULL THEN
            v_cost := (r.job ->> 'cost_mt')::bigint;
            IF v_cost > v_user.daily_mt OR v_cost > v_user.key_cap_mt THEN
                v_error := jsonb_build_object('code', 'quota_exhausted', 'retryable', false, 'message',
                    'This line costs more than a whole day allows. Nothing was charged; ask for less, or use a larger plan.');
            ELSIF v_used + v_cost > v_user.daily_mt OR v_key_used + v_cost > v_user.key_cap_mt THEN
                v_outcome := CASE WHEN v_used + v_cost > v_user.daily_mt THEN 'quota_exhausted' ELSE 'key_cap_exhausted' END;
                v_wait := extract(epoch FROM ((v_today + 1)::timestamp AT TIME ZONE 'utc') - v_now);
                EXIT;
            ELSIF jsonb_array_length(v_jobs) >= v_room THEN
                v_outcome := 'too_many_queued';
                v_wait := 1;
                EXIT;
            ELSIF jsonb_array_length(v_jobs) >= v_rate THEN
                v_outcome := 'rate_limited';
                v_wait := greatest(0.1, extract(epoch FROM greatest(v_user.tat, v_now) - v_now - interval '1 minute'
                                                + v_step * (1 + v_user.submissions_per_min / 2)));
                EXIT;
            ELSE
                v_used := v_used + v_cost;
                v_key_used := v_key_used + v_cost;
                v_jobs := v_jobs || (r.job || jsonb_build_object('ord', jsonb_array_length(v_jobs), 'batch_id', p_batch_id));
            END IF;
        END IF;
        v_lines := v_lines || jsonb_build_object('line', r.line, 'custom_id', coalesce(r.custom_id, ''), 'options', r.options,
                                                 'error', v_error,
                                                 'job_id', CASE WHEN v_error IS NULL THEN r.job ->> 'id' END);
        v_taken := v_taken + 1;
        v_line := r.line;
        v_byte := r.end_byte;
    END LOOP;

    IF jsonb_array_length(v_jobs) > 0 THEN
        SELECT count(*) INTO v_admitted FROM admit(v_jobs, v_now) a WHERE a.outcome = 'admitted';
        IF v_admitted <> jsonb_array_length(v_jobs) THEN
            RAISE EXCEPTION 'of % lines of batch % only % were admitted', jsonb_array_length(v_jobs), p_batch_id, v_admitted;
        END IF;
    END IF;
    INSERT INTO batch_lines (batch_id, line, custom_id, job_id, error, options)
    SELECT p_batch_id, x.line, x.custom_id, x.job_id, x.error, x.options
    FROM jsonb_to_recordset(v_lines) AS x(line integer, custom_id text, job_id uuid, error jsonb, options jsonb);
    UPDATE batches b
    SET next_line = v_line, next_byte = v_byte,
        state = CASE WHEN v_outcome = 'taken' AND p_is_end THEN 'running'
                     WHEN v_outcome IN ('quota_exhausted', 'key_cap_exhausted') THEN 'paused' ELSE 'expanding' END,
        pause_reason = nullif(v_outcome, 'taken'),
        paused_until = CASE WHEN v_outcome <> 'taken' THEN v_now + make_interval(secs => v_wait) END,
        -- A larger plan, a grant or a refund may come before the day is over.
        next_try_at = v_now + make_interval(secs => least(coalesce(v_wait, 0), 30))
    WHERE b.id = p_batch_id;
    RETURN QUERY SELECT v_outcome, v_taken, jsonb_array_length(v_jobs), v_wait;
END $$;

-- Give a batch up: no line is expanded any more, its jobs that wait are cancelled and refunded, those that run are asked
-- to end. It ends as `cancelled`, `expired` or `failed` once they have. Answers its state, or nothing where there is no
-- such batch of the user's (NULL: anybody's). Safe to repeat: what was asked first is what it ends as.
CREATE OR REPLACE FUNCTION give_up_batch(p_batch_id uuid, p_user_id uuid, p_ends_as text, p_errors jsonb DEFAULT '[]',
                                         p_now timestamptz DEFAULT NULL) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz;
    v_state text;
    v_running uuid[];
    v_owner uuid := (SELECT b.user_id FROM batches b WHERE b.id = p_batch_id);
BEGIN
    PERFORM 1 FROM user_state s WHERE s.user_id = v_owner FOR UPDATE;
    IF EXISTS (SELECT FROM batches b WHERE b.id = p_batch_id AND b.user_id <> v_owner) THEN
        RAISE EXCEPTION 'accounts were merged meanwhile: send it again' USING ERRCODE = 'TS002';
    END IF;
    SELECT b.state INTO v_state FROM batches b
    WHERE b.id = p_batch_id AND (p_user_id IS NULL OR b.user_id = p_user_id) FOR UPDATE;
    IF NOT FOUND OR v_state IN ('completed', 'cancelled', 'expired', 'failed') THEN
        RETURN v_state;
    END IF;
    v_now := coalesce(p_now, clock_timestamp());
    PERFORM 1 FROM jobs j WHERE j.batch_id = p_batch_id AND j.finished_at IS NULL ORDER BY j.id FOR UPDATE;
    UPDATE batches b SET state = 'cancelling', ends_as = p_ends_as, errors = p_errors, cancelling_at = v_now,
                         pause_reason = NULL, paused_until = NULL, next_try_at = v_now
    WHERE b.id = p_batch_id AND b.state <> 'cancelling';
    WITH asked AS (
        UPDATE jobs j SET cancel_requested_at = v_now
        WHERE j.batch_id = p_batch_id AND j.state = 'running' AND j.cancel_requested_at IS NULL RETURNING j.id
    )
    SELECT array_agg(a.id) INTO v_running FROM asked a;
    PERFORM end_waiting((SELECT coalesce(jsonb_agg(jsonb_build_object(
                             'ord', w.ord, 'job_id', w.id, 'to_state', 'cancelled', 'reason', 'its batch was given up')), '[]')
                         FROM (SELECT j.id, row_number() OVER (ORDER BY j.id) AS ord FROM jobs j
                               WHERE j.batch_id = p_batch_id AND j.state IN ('created', 'queued')) w), v_now);
    PERFORM emit_events(coalesce((
        SELECT jsonb_agg(jsonb_build_object('ord', 0, 'job_id', j.id, 'user_id', j.user_id, 'type', 'cancel_requested',
                                            'attempt', j.attempt))
        FROM jobs j WHERE j.id = ANY (v_running)), '[]'), v_now);
    PERFORM pg_notify('tessera_batches', '');
    RETURN 'cancelling';
END $$;

-- The end of a batch whose jobs have all ended, with its files: [{role, id, filename, sha256, bytes, expires_at}], role
-- output or error. Answers whether this call ended it: a second one changes nothing.
CREATE OR REPLACE FUNCTION end_batch(p_batch_id uuid, p_files jsonb, p_counts jsonb) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_batch record;
BEGIN
    SELECT b.user_id, b.state INTO v_batch FROM batches b WHERE b.id = p_batch_id FOR UPDATE;
    IF NOT FOUND OR v_batch.state NOT IN ('running', 'cancelling')
       OR EXISTS (SELECT FROM jobs j WHERE j.batch_id = p_batch_id AND j.finished_at IS NULL) THEN
        RETURN false;
    END IF;
    INSERT INTO batch_files (id, user_id, purpose, filename, sha256, bytes, expires_at)
    SELECT x.id, v_batch.user_id, 'batch_output', x.filename, x.sha256, x.bytes, x.expires_at
    FROM jsonb_to_recordset(p_files) AS x(id uuid, filename text, sha256 text, bytes bigint, expires_at timestamptz);
    UPDATE batches b
    SET state = b.ends_as, ended_at = clock_timestamp(), counts = p_counts, pause_reason = NULL, paused_until = NULL,
        output_file_id = (SELECT x.id FROM jsonb_to_recordset(p_files) AS x(id uuid, role text) WHERE x.role = 'output'),
        error_file_id = (SELECT x.id FROM jsonb_to_recordset(p_files) AS x(id uuid, role text) WHERE x.role = 'error')
    WHERE b.id = p_batch_id;
    RETURN true;
END $$;
