-- Artifacts as their owners and the holders of links reach them.

-- name: list_artifacts
-- A page of what is still there of a user's files, the newest first.
SELECT a.id, a.job_id, a.media_type, a.bytes, a.width, a.height, a.duration_s, a.thumbnail_sha256, a.created_at, j.kind,
       j.moderation
FROM artifacts a JOIN jobs j ON j.id = a.job_id
WHERE a.user_id = :user_id AND a.deleted_at IS NULL AND a.withheld_at IS NULL
  AND a.id < coalesce(CAST(:before AS uuid), 'ffffffff-ffff-ffff-ffff-ffffffffffff')
  AND (CAST(:kind AS text) IS NULL OR j.kind = CAST(:kind AS text))
  AND (CAST(:media AS text) IS NULL OR split_part(a.media_type, '/', 1) = CAST(:media AS text))
  AND (CAST(:job_id AS uuid) IS NULL OR a.job_id = CAST(:job_id AS uuid))
ORDER BY a.id DESC LIMIT :limit

-- name: delete_artifact
-- A user's file is gone from now on; repeated, it stays as it is. The garbage collection takes the bytes later.
UPDATE artifacts SET deleted_at = coalesce(deleted_at, now()) WHERE id = :id AND user_id = :user_id

-- name: shared_artifact
-- What a link leads to, unless its owner's account is closed.
SELECT a.id, a.job_id, a.user_id, a.index, a.sha256, a.media_type, a.bytes, a.thumbnail_sha256, a.created_at, a.deleted_at,
       a.withheld_at, j.kind
FROM artifacts a JOIN jobs j ON j.id = a.job_id JOIN users u ON u.id = a.user_id
WHERE a.id = :id AND u.banned_at IS NULL AND u.deleted_at IS NULL
