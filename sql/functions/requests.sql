-- The rate of requests that are not submissions: one count per user for all replicas of the ingress.

-- Take up to p_want requests of a user's minute, and give back p_back that were taken and not used. Takes only the row's
-- own lock, and nothing else in its transaction. granted may be less than wanted, down to 0; then retry_after_s says when
-- the next one is free. remaining: how many are left after these.
CREATE OR REPLACE FUNCTION take_requests(p_user_id uuid, p_per_min integer, p_want integer, p_back integer)
RETURNS TABLE (granted integer, remaining integer, retry_after_s double precision) LANGUAGE plpgsql AS $$
DECLARE
    v_step interval := submission_interval(p_per_min);
    v_tat timestamptz;
    v_now timestamptz;
    v_free integer;
BEGIN
    INSERT INTO request_rates (user_id, tat) VALUES (p_user_id, '-infinity') ON CONFLICT DO NOTHING;
    SELECT r.tat INTO v_tat FROM request_rates r WHERE r.user_id = p_user_id FOR UPDATE;
    v_now := clock_timestamp(); -- after the wait for the row
    -- Never more than a minute ahead, also when the clock was set back.
    v_tat := least(greatest(v_tat, v_now - interval '1 minute') - p_back * v_step, v_now + interval '1 minute');
    v_tat := greatest(v_tat, v_now);
    v_free := floor(extract(epoch FROM v_now + interval '1 minute' - v_tat) / extract(epoch FROM v_step));
    granted := least(p_want, v_free);
    remaining := v_free - granted;
    v_tat := v_tat + granted * v_step;
    retry_after_s := CASE WHEN granted = 0 THEN extract(epoch FROM v_tat + v_step - v_now - interval '1 minute') END;
    UPDATE request_rates r SET tat = v_tat WHERE r.user_id = p_user_id;
    RETURN NEXT;
END $$;
