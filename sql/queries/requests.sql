-- The rate of requests that are not submissions.

-- name: take_requests
-- Take some requests of a user's minute for one replica; see sql/functions/requests.sql.
SELECT granted, remaining, retry_after_s
FROM take_requests(CAST(:user_id AS uuid), CAST(:per_min AS integer), CAST(:want AS integer), CAST(:back AS integer))

-- name: prune_request_rates
-- Forget the rates of those who have been quiet for an hour: a row without one means the same.
DELETE FROM request_rates r
WHERE r.user_id IN (SELECT o.user_id FROM request_rates o WHERE o.tat <= CAST(:now AS timestamptz) - interval '1 hour'
                    ORDER BY o.tat LIMIT :limit FOR UPDATE SKIP LOCKED)
