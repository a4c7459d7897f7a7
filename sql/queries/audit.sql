-- What must be true of the books: one query for each check of `tessera audit`, all read from one snapshot, after two that
-- only look. A row of a check is a difference, and there must be none. :at is the database's clock just after the snapshot was taken, :limit how many rows
-- are wanted; `differences` counts all of them. The rows of pruned jobs are gone, their entries in the ledger are not.

-- name: clock_of_the_snapshot
-- The first query of an audit: it takes the snapshot, and then reads the clock.
SELECT clock_timestamp() AS at

-- name: books_in_all
-- How much there is to audit, and what is held for jobs that wait or run.
SELECT (SELECT count(*) FROM jobs) AS jobs, (SELECT count(*) FROM token_ledger) AS ledger_entries,
       count(*) AS open_holds, coalesce(sum(j.cost_mt), 0)::bigint AS open_mt
FROM jobs j WHERE j.state IN ('created', 'queued', 'running')

-- name: usage_is_the_ledger
-- usage_daily is the sum of the ledger, for each user, day and kind.
SELECT count(*) OVER () AS differences, m.user_id, m.day, m.kind, m.ledger_mt, m.usage_mt, m.holds, m.jobs
FROM (SELECT coalesce(l.user_id, u.user_id) AS user_id, coalesce(l.day, u.day) AS day, coalesce(l.kind, u.kind) AS kind,
             l.sum_mt::bigint AS ledger_mt, u.used_mt AS usage_mt, l.holds, u.jobs
      FROM (SELECT t.user_id, t.day, t.kind, sum(t.amount_mt) AS sum_mt,
                   count(*) FILTER (WHERE t.entry = 'hold') AS holds
            FROM token_ledger t GROUP BY t.user_id, t.day, t.kind) l
      FULL JOIN usage_daily u ON u.user_id = l.user_id AND u.day = l.day AND u.kind = l.kind
      WHERE l.sum_mt IS DISTINCT FROM u.used_mt OR l.holds IS DISTINCT FROM u.jobs) m
ORDER BY m.day DESC, m.user_id, m.kind LIMIT :limit

-- name: a_job_holds_its_price
-- Each job has one hold: its price, on its day, of its user or of an account that became part of that user.
SELECT count(*) OVER () AS differences, m.job_id, m.user_id, m.cost_mt, m.holds, m.held_mt
FROM (SELECT j.id AS job_id, j.user_id, j.cost_mt, count(l.id) AS holds, sum(l.amount_mt)::bigint AS held_mt
      FROM jobs j
      LEFT JOIN (SELECT t.id, t.job_id, t.day, t.kind, t.amount_mt, coalesce(o.merged_into, o.id) AS user_id
                 FROM token_ledger t JOIN users o ON o.id = t.user_id WHERE t.entry = 'hold') l
             ON l.job_id = j.id AND l.user_id = j.user_id AND l.day = j.day AND l.kind = j.kind
      GROUP BY j.id HAVING count(l.id) <> 1 OR sum(l.amount_mt) <> j.cost_mt) m
ORDER BY m.job_id LIMIT :limit

-- name: a_job_that_ended_is_settled
-- Each job that ended has one settlement or refund, of what it held and was not charged.
SELECT count(*) OVER () AS differences, m.job_id, m.user_id, m.state, m.cost_mt, m.charged_mt, m.entries, m.returned_mt
FROM (SELECT j.id AS job_id, j.user_id, j.state, j.cost_mt, j.charged_mt, -sum(l.amount_mt)::bigint AS returned_mt,
             string_agg(l.entry, ', ' ORDER BY l.id) AS entries
      FROM jobs j
      LEFT JOIN token_ledger l ON l.job_id = j.id AND l.entry IN ('settlement', 'refund')
      WHERE j.finished_at IS NOT NULL
      GROUP BY j.id
      HAVING count(l.id) <> 1 OR -sum(l.amount_mt) <> j.cost_mt - j.charged_mt OR bool_or(l.day <> j.day)
          OR min(l.entry) <> CASE WHEN j.state = 'completed' OR j.charged_mt = j.cost_mt THEN 'settlement' ELSE 'refund' END) m
ORDER BY m.job_id LIMIT :limit

-- name: only_what_ended_is_settled
-- No settlement or refund of a job that still waits or runs, or that never held anything.
SELECT count(*) OVER () AS differences, l.job_id, l.user_id, l.entry, l.amount_mt, j.state
FROM token_ledger l
LEFT JOIN jobs j ON j.id = l.job_id
WHERE l.entry IN ('settlement', 'refund')
  AND (l.job_id IS NULL OR (j.id IS NOT NULL AND j.finished_at IS NULL)
       OR (j.id IS NULL AND NOT EXISTS (SELECT FROM token_ledger h WHERE h.job_id = l.job_id AND h.entry = 'hold')))
ORDER BY l.id LIMIT :limit

-- name: no_job_is_lost
-- Whatever was held belongs to a job that is there, or that ended before it was pruned.
SELECT count(*) OVER () AS differences, l.job_id, l.user_id, l.day, l.amount_mt AS held_mt
FROM token_ledger l
WHERE l.entry = 'hold'
  AND NOT EXISTS (SELECT FROM jobs j WHERE j.id = l.job_id)
  AND NOT EXISTS (SELECT FROM token_ledger e WHERE e.job_id = l.job_id AND e.entry IN ('settlement', 'refund'))
ORDER BY l.id LIMIT :limit

-- name: charges_fit_the_end
-- No job is charged more than it held; what expired or failed is not charged, but for a result that was withheld.
SELECT count(*) OVER () AS differences, j.id AS job_id, j.user_id, j.state, j.error ->> 'code' AS code, j.cost_mt, j.charged_mt
FROM jobs j
WHERE j.finished_at IS NOT NULL
  AND NOT CASE j.state WHEN 'expired' THEN j.charged_mt = 0
                       WHEN 'failed' THEN j.charged_mt = 0
                            OR (j.charged_mt = j.cost_mt AND j.error ->> 'code' = 'content_withheld')
                       ELSE j.charged_mt BETWEEN 0 AND j.cost_mt END
ORDER BY j.id LIMIT :limit

-- name: quotas_are_todays_usage
-- What counts against a user's quota is what usage_daily has of today. A hot row of an earlier day is void.
SELECT count(*) OVER () AS differences, m.user_id, m.day, m.quota_mt, m.usage_mt
FROM (SELECT s.user_id, s.day, s.used_mt AS quota_mt, coalesce(sum(u.used_mt), 0)::bigint AS usage_mt
      FROM user_state s LEFT JOIN usage_daily u ON u.user_id = s.user_id AND u.day = s.day
      WHERE s.day = utc_day(CAST(:at AS timestamptz))
      GROUP BY s.user_id HAVING s.used_mt <> coalesce(sum(u.used_mt), 0)
      UNION ALL
      SELECT u.user_id, u.day, NULL, sum(u.used_mt)::bigint
      FROM usage_daily u
      WHERE u.day = utc_day(CAST(:at AS timestamptz))
        AND NOT EXISTS (SELECT FROM user_state s WHERE s.user_id = u.user_id AND s.day = u.day)
      GROUP BY u.user_id, u.day) m
ORDER BY m.user_id LIMIT :limit

-- name: keys_used_what_their_jobs_did
-- What counts against the daily cap of an API key is what its jobs hold or were charged today.
SELECT count(*) OVER () AS differences, m.key_id, m.counted_mt, m.jobs_mt
FROM (SELECT coalesce(a.key_id, j.api_key_id) AS key_id, coalesce(a.used_mt, 0) AS counted_mt,
             coalesce(j.used_mt, 0)::bigint AS jobs_mt
      FROM (SELECT k.key_id, k.used_mt FROM api_key_usage k WHERE k.day = utc_day(CAST(:at AS timestamptz))) a
      FULL JOIN (SELECT o.api_key_id, sum(coalesce(o.charged_mt, o.cost_mt)) AS used_mt FROM jobs o
                 WHERE o.day = utc_day(CAST(:at AS timestamptz)) AND o.api_key_id IS NOT NULL
                 GROUP BY o.api_key_id) j ON j.api_key_id = a.key_id
      WHERE coalesce(a.used_mt, 0) <> coalesce(j.used_mt, 0)) m
ORDER BY m.key_id LIMIT :limit

-- name: counters_are_the_jobs
-- The counters of waiting and running jobs, by which admission and claims decide, are those of the jobs.
SELECT count(*) OVER () AS differences, s.user_id, s.queued, coalesce(j.queued, 0) AS waiting_jobs, s.running,
       coalesce(j.running, 0) AS running_jobs
FROM user_state s
LEFT JOIN (SELECT o.user_id, count(*) FILTER (WHERE o.state <> 'running') AS queued,
                  count(*) FILTER (WHERE o.state = 'running') AS running
           FROM jobs o WHERE o.state IN ('created', 'queued', 'running') GROUP BY o.user_id) j ON j.user_id = s.user_id
WHERE s.queued <> coalesce(j.queued, 0) OR s.running <> coalesce(j.running, 0)
ORDER BY s.user_id LIMIT :limit

-- name: a_job_ends_once
-- A job that ended has one final event, the one of its state, and a completed one has one completed attempt; no others.
SELECT count(*) OVER () AS differences, m.job_id, m.state, m.ends, m.told, m.completed_attempts
FROM (SELECT j.id AS job_id, j.state, coalesce(e.ends, 0) AS ends, e.told, coalesce(a.completed, 0) AS completed_attempts
      FROM jobs j
      LEFT JOIN (SELECT v.job_id, count(*) AS ends, min(v.type) AS told FROM job_events v
                 WHERE v.type IN ('completed', 'failed', 'cancelled', 'expired') GROUP BY v.job_id) e ON e.job_id = j.id
      LEFT JOIN (SELECT t.job_id, count(*) AS completed FROM attempts t WHERE t.outcome = 'completed' GROUP BY t.job_id) a
             ON a.job_id = j.id
      WHERE coalesce(e.ends, 0) <> CASE WHEN j.finished_at IS NULL THEN 0 ELSE 1 END
         OR (e.told IS NOT NULL AND e.told <> j.state)
         OR coalesce(a.completed, 0) <> CASE j.state WHEN 'completed' THEN 1 ELSE 0 END) m
ORDER BY m.job_id LIMIT :limit

-- name: events_have_no_gap
-- The events of a job are counted from 1 to the last one, without a gap.
SELECT count(*) OVER () AS differences, m.job_id, m.events, m.first, m.last, m.last_job_seq
FROM (SELECT j.id AS job_id, j.last_job_seq, coalesce(e.events, 0) AS events, e.first, e.last
      FROM jobs j
      LEFT JOIN (SELECT v.job_id, count(*) AS events, min(v.job_seq) AS first, max(v.job_seq) AS last
                 FROM job_events v WHERE v.job_seq IS NOT NULL GROUP BY v.job_id) e ON e.job_id = j.id
      WHERE coalesce(e.events, 0) <> j.last_job_seq OR e.first <> 1 OR e.last <> j.last_job_seq) m
ORDER BY m.job_id LIMIT :limit

-- name: completed_jobs_have_their_files
-- A completed job of a kind that makes files has one at least; after its retention the row says that it is deleted.
SELECT count(*) OVER () AS differences, j.id AS job_id, j.user_id, j.kind, j.finished_at
FROM jobs j
WHERE j.state = 'completed' AND j.kind IN ('image', 'video', 'speech', 'music')
  AND NOT EXISTS (SELECT FROM artifacts a WHERE a.job_id = j.id)
ORDER BY j.id LIMIT :limit

-- name: runs_have_their_attempt
-- A running job has a lease and the open attempt of its number, and no other job has an open attempt.
SELECT count(*) OVER () AS differences, m.job_id, m.state, m.attempt, m.open_attempt, m.lease_expires_at
FROM (SELECT j.id AS job_id, j.state, j.attempt, a.attempt AS open_attempt, j.lease_expires_at
      FROM (SELECT r.id, r.state, r.attempt, r.lease_expires_at, r.worker FROM jobs r WHERE r.state = 'running') j
      LEFT JOIN attempts a ON a.job_id = j.id AND a.attempt = j.attempt AND a.finished_at IS NULL
      WHERE a.job_id IS NULL OR j.lease_expires_at IS NULL OR j.worker IS NULL
      UNION ALL
      SELECT j.id, j.state, j.attempt, a.attempt, j.lease_expires_at
      FROM attempts a JOIN jobs j ON j.id = a.job_id
      WHERE a.finished_at IS NULL AND (j.state <> 'running' OR a.attempt <> j.attempt)) m
ORDER BY m.job_id LIMIT :limit

-- name: the_merged_have_nothing
-- An account that became part of another has no job, key, file or identity, no use of any day, and its user is nobody's part.
SELECT count(*) OVER () AS differences, m.user_id, m.merged_into, m.what, m.n
FROM (SELECT u.id AS user_id, u.merged_into, w.what, w.n
      FROM users u
      CROSS JOIN LATERAL (
          SELECT 'jobs' AS what, count(*) AS n FROM jobs j WHERE j.user_id = u.id
          UNION ALL SELECT 'artifacts', count(*) FROM artifacts a WHERE a.user_id = u.id
          UNION ALL SELECT 'uploads', count(*) FROM uploads a WHERE a.user_id = u.id
          UNION ALL SELECT 'identities', count(*) FROM identities i WHERE i.user_id = u.id
          UNION ALL SELECT 'keys', count(*) FROM api_keys k WHERE k.user_id = u.id
          UNION ALL SELECT 'days with use', count(*) FROM usage_daily d WHERE d.user_id = u.id AND d.used_mt <> 0
          UNION ALL SELECT 'counted jobs', (s.queued + s.running)::bigint FROM user_state s WHERE s.user_id = u.id
          UNION ALL SELECT 'merged further', count(*) FROM users o WHERE o.id = u.merged_into AND o.merged_into IS NOT NULL
      ) w
      WHERE u.merged_into IS NOT NULL AND w.n <> 0) m
ORDER BY m.user_id, m.what LIMIT :limit

-- name: the_deleted_are_gone
-- A deleted account has no identity, no key that works and no job that waits, and what its jobs said and made is erased (ten minutes after they ended).
SELECT count(*) OVER () AS differences, m.user_id, m.what, m.n
FROM (SELECT u.id AS user_id, w.what, w.n
      FROM users u
      CROSS JOIN LATERAL (
          SELECT 'identities' AS what, count(*) AS n FROM identities i WHERE i.user_id = u.id
          UNION ALL SELECT 'keys', count(*) FROM api_keys k WHERE k.user_id = u.id AND k.revoked_at IS NULL
          UNION ALL SELECT 'waiting jobs', count(*) FROM jobs j WHERE j.user_id = u.id AND j.state IN ('created', 'queued')
          UNION ALL SELECT 'jobs with words', count(*) FROM jobs j
                    WHERE j.user_id = u.id AND j.finished_at < CAST(:at AS timestamptz) - interval '10 minutes'
                      AND (j.input <> '{}' OR j.output IS NOT NULL)
          UNION ALL SELECT 'files', count(*) FROM artifacts a JOIN jobs j ON j.id = a.job_id
                    WHERE a.user_id = u.id AND a.deleted_at IS NULL
                      AND j.finished_at < CAST(:at AS timestamptz) - interval '10 minutes'
      ) w
      WHERE u.deleted_at IS NOT NULL AND u.merged_into IS NULL AND w.n <> 0) m
ORDER BY m.user_id, m.what LIMIT :limit
