-- What becomes of flagged jobs, of reports, and of users who are banned. Locks as in jobs.sql; a report is locked after
-- its job.

-- A flagged job opens a report of its own, in the transaction of its admission.
CREATE OR REPLACE FUNCTION jobs_report_flagged() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO moderation_reports (id, job_id, owner_id, category, reason)
    VALUES (gen_random_uuid(), NEW.id, NEW.user_id, 'flagged', 'flagged by a rule');
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER jobs_report_flagged AFTER INSERT ON jobs
    FOR EACH ROW WHEN (NEW.moderation @> '{"flagged": true}') EXECUTE FUNCTION jobs_report_flagged();

-- Uphold a report: its file, or all of its job's, is withheld, and a text with it. What was charged for that is given back
-- today, three times a day and user as for results that the safety rules withheld. A job that waits is ended, refunded.
-- outcome: upheld; running (nothing is withheld yet, the job's end is asked for, the report stays open); reviewed (it was
-- already); unknown.
CREATE OR REPLACE FUNCTION uphold_report(p_id uuid, p_actor text, p_subject text, p_note text, p_now timestamptz DEFAULT NULL)
RETURNS TABLE (outcome text, refunded_mt bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz;
    v_today date;
    v_report moderation_reports%ROWTYPE;
    v_job jobs%ROWTYPE;
    v_files integer;
    v_taken integer := 0;
    v_refund_mt bigint := 0;
    v_withheld integer;
BEGIN
    SELECT * INTO v_report FROM moderation_reports r WHERE r.id = p_id;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'unknown', 0::bigint;
        RETURN;
    END IF;
    PERFORM 1 FROM user_state s WHERE s.user_id = v_report.owner_id FOR UPDATE;
    v_now := coalesce(p_now, clock_timestamp());
    v_today := utc_day(v_now);
    SELECT * INTO v_job FROM jobs j WHERE j.id = v_report.job_id FOR UPDATE;
    SELECT * INTO v_report FROM moderation_reports r WHERE r.id = p_id FOR UPDATE;
    IF v_report.state <> 'open' THEN
        RETURN QUERY SELECT 'reviewed', v_report.refunded_mt;
        RETURN;
    END IF;

    IF v_job.state = 'running' THEN
        IF v_job.cancel_requested_at IS NULL THEN
            UPDATE jobs j SET cancel_requested_at = v_now WHERE j.id = v_job.id;
            PERFORM emit_events(jsonb_build_array(jsonb_build_object('ord', 0, 'job_id', v_job.id, 'user_id', v_job.user_id,
                                'type', 'cancel_requested', 'attempt', v_job.attempt)), v_now);
        END IF;
        RETURN QUERY SELECT 'running', 0::bigint;
        RETURN;
    END IF;

    SELECT count(*)::integer INTO v_files FROM artifacts a WHERE a.job_id = v_report.job_id;
    UPDATE artifacts a SET withheld_at = v_now
    WHERE a.job_id = v_report.job_id AND a.withheld_at IS NULL
      AND (v_report.artifact_id IS NULL OR a.id = v_report.artifact_id);
    GET DIAGNOSTICS v_taken = ROW_COUNT;

    IF v_job.state = 'completed' THEN
        v_refund_mt := CASE
            WHEN coalesce(v_job.moderation @> '{"withheld": true}', false) THEN 0 -- all of it is withheld already
            WHEN v_files > 0 THEN v_job.charged_mt * v_taken / v_files
            ELSE v_job.charged_mt END;
        IF v_refund_mt > 0 THEN
            UPDATE user_state s
            SET withheld = CASE WHEN s.withheld_day = v_today THEN s.withheld ELSE 0 END + 1, withheld_day = v_today
            WHERE s.user_id = v_report.owner_id RETURNING s.withheld INTO v_withheld;
            IF v_withheld > 3 THEN
                v_refund_mt := 0;
            END IF;
        END IF;
        IF v_refund_mt > 0 THEN
            PERFORM book(jsonb_build_array(jsonb_build_object('user_id', v_report.owner_id, 'day', v_today, 'kind', 'account',
                             'entry', 'adjustment', 'amount_mt', -v_refund_mt, 'job_id', v_job.id,
                             'reason', 'withheld after a report', 'actor', p_actor)), v_now);
        END IF;
    END IF;
    IF v_report.artifact_id IS NULL OR NOT EXISTS (SELECT FROM artifacts a WHERE a.job_id = v_report.job_id
                                                                         AND a.withheld_at IS NULL) THEN
        UPDATE jobs j SET moderation = coalesce(j.moderation, '{}') || '{"withheld": true}' WHERE j.id = v_job.id;
    END IF;

    UPDATE moderation_reports r
    SET state = 'upheld', reviewed_at = v_now, reviewed_by = p_actor, note = p_note, refunded_mt = v_refund_mt
    WHERE r.id = p_id;
    INSERT INTO audit_log (actor, action, subject, data, created_at)
    VALUES (p_actor, 'uphold_report', p_subject,
            jsonb_build_object('job_id', v_report.job_id, 'artifact_id', v_report.artifact_id, 'withheld', v_taken,
                               'refunded_mt', v_refund_mt, 'note', p_note), v_now);
    IF v_job.state IN ('created', 'queued') THEN
        PERFORM end_waiting(jsonb_build_array(jsonb_build_object('ord', 0, 'job_id', v_job.id,
            'to_state', CASE v_job.state WHEN 'queued' THEN 'failed' ELSE 'cancelled' END, 'reason', 'withheld after a report',
            'error', jsonb_build_object('code', 'content_withheld', 'retryable', false,
                'message', 'An operator has refused this job after a report. Its tokens are returned; change the prompt.'))),
            v_now);
    END IF;
    RETURN QUERY SELECT 'upheld', v_refund_mt;
END $$;

-- Close or reopen a user's account, with its row in audit_log. A ban ends what waits, refunded, and asks for the end of
-- what runs. outcome: banned, unbanned, unchanged (it was so already), operator (one cannot be banned), unknown.
CREATE OR REPLACE FUNCTION set_ban(p_user_id uuid, p_reason text, p_actor text, p_subject text, p_now timestamptz DEFAULT NULL)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_now timestamptz;
    v_user users%ROWTYPE;
BEGIN
    PERFORM 1 FROM user_state s WHERE s.user_id = p_user_id FOR UPDATE;
    v_now := coalesce(p_now, clock_timestamp());
    SELECT * INTO v_user FROM users u WHERE u.id = p_user_id AND u.deleted_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'unknown';
    END IF;
    IF p_reason IS NULL THEN
        IF v_user.banned_at IS NULL THEN
            RETURN 'unchanged';
        END IF;
        UPDATE users u SET banned_at = NULL, ban_reason = NULL WHERE u.id = p_user_id;
        INSERT INTO audit_log (actor, action, subject, data, created_at)
        VALUES (p_actor, 'unban', p_subject, jsonb_build_object('was', v_user.ban_reason), v_now);
        RETURN 'unbanned';
    END IF;
    IF v_user.is_admin THEN
        RETURN 'operator';
    END IF;
    IF v_user.banned_at IS NOT NULL AND v_user.ban_reason = p_reason THEN
        RETURN 'unchanged';
    END IF;
    UPDATE users u SET banned_at = coalesce(u.banned_at, v_now), ban_reason = p_reason WHERE u.id = p_user_id;
    INSERT INTO audit_log (actor, action, subject, data, created_at)
    VALUES (p_actor, 'ban', p_subject, jsonb_build_object('reason', p_reason), v_now);
    PERFORM 1 FROM jobs j WHERE j.user_id = p_user_id AND j.state IN ('created', 'queued', 'running') ORDER BY j.id FOR UPDATE;
    PERFORM end_waiting(coalesce((
        SELECT jsonb_agg(jsonb_build_object('ord', o.ord, 'job_id', o.id, 'to_state', 'cancelled', 'reason', 'account closed'))
        FROM (SELECT j.id, row_number() OVER (ORDER BY j.id) AS ord FROM jobs j
              WHERE j.user_id = p_user_id AND j.state IN ('created', 'queued')) o), '[]'), v_now);
    UPDATE jobs j SET cancel_requested_at = v_now
    WHERE j.user_id = p_user_id AND j.state = 'running' AND j.cancel_requested_at IS NULL;
    PERFORM emit_events(coalesce((
        SELECT jsonb_agg(jsonb_build_object('job_id', j.id, 'user_id', p_user_id, 'type', 'cancel_requested', 'attempt', j.attempt))
        FROM jobs j WHERE j.user_id = p_user_id AND j.state = 'running' AND j.cancel_requested_at = v_now), '[]'), v_now);
    RETURN 'banned';
END $$;
