-- What an operator does with one job, each with its row in audit_log. They go through the functions that the scheduler uses,
-- under its epoch, and so keep their rules: the attempt fences, final states absorb, a wish to cancel wins.

-- Put a running job back into the queue: it keeps its place, and no failure is counted. The scheduler hears of it by the
-- event and ends the run that went on. Answers queued; cancelled, where a cancel was asked for; or, with nothing changed,
-- the state that the job has, or nothing where there is none.
CREATE OR REPLACE FUNCTION requeue_job(p_job_id uuid, p_reason text, p_actor text, p_now timestamptz DEFAULT NULL)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_job record;
    v_state text;
BEGIN
    PERFORM 1 FROM leader l FOR SHARE;
    SELECT j.state, j.attempt INTO v_job FROM jobs j WHERE j.id = p_job_id;
    IF NOT FOUND OR v_job.state <> 'running' THEN
        RETURN v_job.state;
    END IF;
    SELECT f.state INTO v_state
    FROM finish((SELECT l.epoch FROM leader l), jsonb_build_array(jsonb_build_object(
        'ord', 0, 'job_id', p_job_id, 'attempt', v_job.attempt, 'outcome', 'requeued', 'failed', false,
        'reason', 'put back by the operator' || CASE p_reason WHEN '' THEN '' ELSE ': ' || p_reason END)), p_now) AS f;
    IF v_state IS NULL THEN -- it ended, or began anew, at this moment
        RETURN (SELECT j.state FROM jobs j WHERE j.id = p_job_id);
    END IF;
    INSERT INTO audit_log (actor, action, subject, data)
    VALUES (p_actor, 'requeue_job', show_id('job', p_job_id),
            jsonb_build_object('attempt', v_job.attempt, 'reason', p_reason, 'state', v_state));
    RETURN v_state;
END $$;

-- End a job that is queued or runs as failed, with all of its tokens back. Answers failed and true; or the state that it
-- has, and false, with nothing changed.
CREATE OR REPLACE FUNCTION fail_job(p_job_id uuid, p_reason text, p_actor text, p_now timestamptz DEFAULT NULL)
RETURNS TABLE (state text, done boolean, refunded_mt bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_job record;
    v_error jsonb := jsonb_build_object('code', 'stopped_by_operator', 'retryable', true, 'message',
        'The operator ended this job' || CASE p_reason WHEN '' THEN '' ELSE ' (' || p_reason || ')' END
        || '. Its tokens are returned; submit it again if it is still wanted.');
    v_state text;
BEGIN
    PERFORM 1 FROM leader l FOR SHARE;
    SELECT j.state, j.attempt, j.cost_mt INTO v_job FROM jobs j WHERE j.id = p_job_id;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF v_job.state = 'running' THEN
        SELECT f.state INTO v_state
        FROM finish((SELECT l.epoch FROM leader l), jsonb_build_array(jsonb_build_object(
            'ord', 0, 'job_id', p_job_id, 'attempt', v_job.attempt, 'outcome', 'failed', 'error', v_error, 'ours', true,
            'reason', 'stopped by the operator')), p_now) AS f;
    ELSIF v_job.state = 'queued' THEN
        SELECT e.state INTO v_state FROM end_waiting(jsonb_build_array(jsonb_build_object(
            'ord', 0, 'job_id', p_job_id, 'to_state', 'failed', 'error', v_error, 'reason', 'stopped by the operator')),
            p_now) AS e;
    END IF;
    IF v_state IS NULL THEN
        RETURN QUERY SELECT j.state, false, 0::bigint FROM jobs j WHERE j.id = p_job_id;
        RETURN;
    END IF;
    INSERT INTO audit_log (actor, action, subject, data)
    VALUES (p_actor, 'fail_job', show_id('job', p_job_id), jsonb_build_object('from', v_job.state, 'reason', p_reason));
    RETURN QUERY SELECT v_state, true, v_job.cost_mt;
END $$;
