-- What admission would say of a job, without holding anything: a look, not a promise.

-- name: quote_admission
-- What `admit` would answer now to one job of this price, by its rules in its order.
-- Also the lesser of what quota and key leave. Without locks: jobs that are admitted in this moment are not seen.
SELECT CASE WHEN f.user_used_mt + f.cost_mt > f.user_daily_mt THEN 'quota_exhausted'
            WHEN f.key_used_mt + f.cost_mt > f.key_cap_mt THEN 'key_cap_exhausted'
            WHEN f.queued >= f.max_queued THEN 'too_many_queued'
            WHEN f.tat + f.step - f.at > interval '1 minute' THEN 'rate_limited'
            ELSE 'admitted' END AS outcome,
       CASE WHEN f.user_used_mt + f.cost_mt > f.user_daily_mt OR f.key_cap_mt IS NULL
                 OR f.key_used_mt + f.cost_mt <= f.key_cap_mt THEN f.user_used_mt ELSE f.key_used_mt END AS used_mt,
       CASE WHEN f.user_used_mt + f.cost_mt > f.user_daily_mt OR f.key_cap_mt IS NULL
                 OR f.key_used_mt + f.cost_mt <= f.key_cap_mt THEN f.user_daily_mt ELSE f.key_cap_mt END AS daily_mt,
       CASE WHEN f.user_used_mt + f.cost_mt > f.user_daily_mt OR f.key_used_mt + f.cost_mt > f.key_cap_mt
                THEN extract(epoch FROM f.resets_at - f.at)
            WHEN f.queued >= f.max_queued THEN 5
            ELSE extract(epoch FROM f.tat + f.step - f.at - interval '1 minute') END::double precision AS retry_after_s,
       f.submissions_per_min AS rate_limit,
       floor(extract(epoch FROM interval '1 minute' - (f.tat - f.at)) / extract(epoch FROM f.step))::integer
           AS rate_remaining,
       greatest(0, least(f.user_daily_mt - f.user_used_mt, f.key_cap_mt - f.key_used_mt)) AS remaining_mt,
       f.tier, f.at AS admitted_at, f.resets_at
FROM (SELECT CAST(:cost_mt AS bigint) AS cost_mt, t.at, l.tier,
             CASE WHEN s.day = utc_day(t.at) THEN s.used_mt ELSE used_on(s.user_id, utc_day(t.at)) END AS user_used_mt,
             l.daily_mt AS user_daily_mt, k.daily_cap_mt AS key_cap_mt, coalesce(a.used_mt, 0) AS key_used_mt,
             s.queued, l.max_queued, l.submissions_per_min, submission_interval(l.submissions_per_min) AS step,
             greatest(t.at, least(s.tat, t.at + interval '1 minute')) AS tat,
             (utc_day(t.at) + 1)::timestamp AT TIME ZONE 'utc' AS resets_at
      FROM (SELECT clock_timestamp() AS at OFFSET 0) t, user_state s
      JOIN user_limits l ON l.user_id = s.user_id
      LEFT JOIN api_keys k ON k.id = :key_id
      LEFT JOIN api_key_usage a ON a.key_id = k.id AND a.day = utc_day(now())
      WHERE s.user_id = :user_id) f
