-- What a user may read of the user's own ledger. The entries of an account that became part of it stand under its own id.

-- name: ledger_of_user
-- A page of a user's entries, the newest first; those of one day where it is given.
SELECT l.id, l.day, l.kind, l.entry, l.amount_mt, l.job_id, l.reason, l.created_at
FROM users u
CROSS JOIN LATERAL (SELECT t.id, t.day, t.kind, t.entry, t.amount_mt, t.job_id, t.reason, t.created_at
                    FROM token_ledger t
                    WHERE t.user_id = u.id AND t.id < coalesce(CAST(:before AS bigint), 9223372036854775807)
                      AND (CAST(:day AS date) IS NULL OR t.day = CAST(:day AS date))
                    ORDER BY t.id DESC LIMIT CAST(:limit AS integer)) l
WHERE :user_id IN (u.id, u.merged_into)
ORDER BY l.id DESC LIMIT CAST(:limit AS integer)

-- name: ledger_of_job
-- The entries of one of a user's jobs, the newest first, also when the job's row is pruned. A job has few of them.
SELECT l.id, l.day, l.kind, l.entry, l.amount_mt, l.job_id, l.reason, l.created_at
FROM (SELECT h.id, h.user_id, h.day, h.kind, h.entry, h.amount_mt, h.job_id, h.reason, h.created_at
      FROM token_ledger h WHERE h.job_id = :job_id AND h.entry IN ('hold', 'settlement', 'refund')
      UNION ALL
      SELECT g.id, g.user_id, g.day, g.kind, g.entry, g.amount_mt, g.job_id, g.reason, g.created_at
      FROM token_ledger g WHERE g.job_id = :job_id AND g.entry = 'grant') l
WHERE l.user_id IN (SELECT u.id FROM users u WHERE :user_id IN (u.id, u.merged_into)) AND l.id < coalesce(CAST(:before AS bigint), 9223372036854775807)
  AND (CAST(:day AS date) IS NULL OR l.day = CAST(:day AS date))
ORDER BY l.id DESC LIMIT :limit
