-- Persons as bots know them: an identity and the user behind it.

-- The user of an identity, made when it is seen for the first time: on the smallest plan, named like the identity. What
-- the identity has used today in an account that it left is used already (former_identities), and a ban holds.
-- p_per_min: how many users a provider may bring in a minute; 0 lets nobody new in.
-- outcome: known, new; or, with nothing made, rate_limited (retry_after_s), closed, banned (ban_reason). Safe to repeat.
-- The row of sign_ups is locked first: of two replicas that see an identity at once, the second one finds the first's user.
CREATE OR REPLACE FUNCTION resolve_identity(p_provider text, p_subject text, p_hmac bytea, p_user_id uuid, p_id uuid,
                                            p_per_min integer, p_now timestamptz DEFAULT NULL)
RETURNS TABLE (user_id uuid, outcome text, retry_after_s double precision, ban_reason text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz;
    v_tat timestamptz;
    v_step interval;
    v_former record;
    v_name text := p_provider || ':' || p_subject;
BEGIN
    RETURN QUERY SELECT i.user_id, 'known', NULL::double precision, NULL FROM identities i
                 WHERE i.provider = p_provider AND i.subject = p_subject;
    IF FOUND THEN
        RETURN;
    END IF;
    INSERT INTO sign_ups (provider) VALUES (p_provider) ON CONFLICT (provider) DO NOTHING;
    SELECT s.tat INTO v_tat FROM sign_ups s WHERE s.provider = p_provider FOR UPDATE;
    RETURN QUERY SELECT i.user_id, 'known', NULL::double precision, NULL FROM identities i
                 WHERE i.provider = p_provider AND i.subject = p_subject;
    IF FOUND THEN
        RETURN;
    END IF;

    v_now := coalesce(p_now, clock_timestamp());
    SELECT f.user_id, f.day, f.used_mt, f.banned_at, f.ban_reason INTO v_former FROM former_identities f WHERE f.identity_hmac = p_hmac;
    IF v_former.banned_at IS NOT NULL THEN
        RETURN QUERY SELECT NULL::uuid, 'banned', NULL::double precision, v_former.ban_reason;
        RETURN;
    END IF;
    IF p_per_min <= 0 THEN
        RETURN QUERY SELECT NULL::uuid, 'closed', NULL::double precision, NULL;
        RETURN;
    END IF;
    v_step := submission_interval(p_per_min);
    -- Further ahead than a minute it is only when the clock was set back: then it counts from here.
    v_tat := least(greatest(v_tat, v_now), v_now + interval '1 minute');
    IF v_tat + v_step - v_now > interval '1 minute' THEN
        RETURN QUERY SELECT NULL::uuid, 'rate_limited',
            extract(epoch FROM v_tat + v_step - v_now - interval '1 minute')::double precision, NULL;
        RETURN;
    END IF;
    UPDATE sign_ups s SET tat = v_tat + v_step WHERE s.provider = p_provider;

    -- A live user may have that name already: an operator gave it, or the identity has left the account that it named.
    INSERT INTO users (id, name, plan_id, created_at)
    SELECT p_user_id,
           left(v_name, 160) || CASE WHEN EXISTS (SELECT FROM users u WHERE u.name = left(v_name, 160) AND u.deleted_at IS NULL)
                                     THEN ' ' || p_user_id ELSE '' END,
           p.id, v_now
    FROM plans p ORDER BY p.position, p.id LIMIT 1;
    INSERT INTO identities (id, user_id, provider, subject, created_at) VALUES (p_id, p_user_id, p_provider, p_subject, v_now);
    IF v_former.day = utc_day(v_now) AND v_former.used_mt > 0 THEN
        PERFORM book(jsonb_build_array(jsonb_build_object(
            'user_id', p_user_id, 'day', v_former.day, 'kind', 'account', 'entry', 'adjustment',
            'amount_mt', v_former.used_mt, 'reason', 'used today before this account was made')), v_now);
        INSERT INTO carried_use (user_id, from_user_id, day, used_mt)
        VALUES (p_user_id, v_former.user_id, v_former.day, v_former.used_mt);
    END IF;
    RETURN QUERY SELECT p_user_id, 'new', NULL::double precision, NULL;
END $$;
