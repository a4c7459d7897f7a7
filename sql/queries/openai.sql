-- What OpenAI's shapes need beside the native queries.

-- name: get_video
-- A user's video job with its artifacts, unless it was deleted.
SELECT j.id, j.kind, j.model, j.state, j.input, j.output, j.error, j.cost_mt, j.charged_mt, j.created_at, j.finished_at,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('id', a.id) ORDER BY a.index), '[]')
        FROM artifacts a WHERE a.job_id = j.id AND a.deleted_at IS NULL AND a.withheld_at IS NULL) AS artifacts
FROM jobs j
WHERE j.id = :id AND j.user_id = :user_id AND j.kind = 'video'
  AND NOT EXISTS (SELECT FROM deleted_videos d WHERE d.job_id = j.id)

-- name: list_videos
-- A page of a user's video jobs that were not deleted, by age.
SELECT j.id, j.kind, j.model, j.state, j.input, j.output, j.error, j.cost_mt, j.charged_mt, j.created_at, j.finished_at
FROM jobs j
WHERE j.user_id = :user_id AND j.kind = 'video'
  AND (CAST(:after AS uuid) IS NULL
       OR CASE WHEN CAST(:ascending AS boolean) THEN j.id > CAST(:after AS uuid) ELSE j.id < CAST(:after AS uuid) END)
  AND NOT EXISTS (SELECT FROM deleted_videos d WHERE d.job_id = j.id)
ORDER BY CASE WHEN CAST(:ascending AS boolean) THEN j.id END, j.id DESC
LIMIT :limit

-- name: delete_video
-- Take a video out of the list, and its files away.
WITH noted AS (
    INSERT INTO deleted_videos (job_id) SELECT j.id FROM jobs j WHERE j.id = :id AND j.user_id = :user_id
    ON CONFLICT (job_id) DO NOTHING
)
UPDATE artifacts SET deleted_at = now() WHERE job_id = :id AND user_id = :user_id AND deleted_at IS NULL
