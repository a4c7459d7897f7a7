-- What the API reads, and its small writes. Jobs are written by the functions only.

-- name: key_for_auth
-- An API key with its user and the user's limits.
SELECT k.id, k.user_id, k.secret_sha256, k.scopes, k.daily_cap_mt, k.expires_at, k.last_used_at, k.revoked_at,
       u.name, u.is_admin, u.banned_at, u.ban_reason, u.deleted_at,
       l.plan_id, l.tier, l.daily_mt, l.submissions_per_min, l.requests_per_min, l.max_queued, l.max_running, l.max_image_px,
       l.max_video_s, l.retention_days
FROM api_keys k JOIN users u ON u.id = k.user_id JOIN user_limits l ON l.user_id = k.user_id
WHERE k.id = :id

-- name: touch_key
-- Note that a key was used, at most once a minute.
UPDATE api_keys SET last_used_at = now()
WHERE id = :id AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')

-- name: get_job
-- A user's job with its artifacts.
SELECT j.id, j.kind, j.model, j.tier, j.state, j.input, j.metadata, j.output, j.error, j.cost_mt, j.charged_mt, j.attempt,
       j.not_before, j.deadline, j.cancel_requested_at, j.retried_from, j.webhook, j.moderation, j.created_at, j.started_at, j.finished_at,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('id', a.id, 'media_type', a.media_type, 'bytes', a.bytes,
                                                     'width', a.width, 'height', a.height, 'duration_s', a.duration_s,
                                                     'thumbnail_sha256', a.thumbnail_sha256) ORDER BY a.index), '[]')
        FROM artifacts a WHERE a.job_id = j.id AND a.deleted_at IS NULL AND a.withheld_at IS NULL) AS artifacts
FROM jobs j WHERE j.id = :id AND j.user_id = :user_id

-- name: list_jobs
-- A page of a user's jobs, the newest first, none older than `down_to`.
-- A text is looked for in what a person wrote: the prompt, what is to be spoken, the messages of a chat.
SELECT j.id, j.kind, j.model, j.tier, j.state, j.input, j.metadata, j.output, j.error, j.cost_mt, j.charged_mt, j.attempt,
       j.not_before, j.deadline, j.cancel_requested_at, j.retried_from, j.webhook, j.moderation, j.created_at, j.started_at, j.finished_at,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('id', a.id, 'media_type', a.media_type, 'bytes', a.bytes,
                                                     'width', a.width, 'height', a.height, 'duration_s', a.duration_s,
                                                     'thumbnail_sha256', a.thumbnail_sha256) ORDER BY a.index), '[]')
        FROM artifacts a WHERE a.job_id = j.id AND a.deleted_at IS NULL AND a.withheld_at IS NULL) AS artifacts
FROM jobs j
WHERE j.user_id = :user_id
  AND j.id < coalesce(CAST(:before AS uuid), 'ffffffff-ffff-ffff-ffff-ffffffffffff')
  AND j.id >= coalesce(CAST(:down_to AS uuid), '00000000-0000-0000-0000-000000000000')
  AND (CAST(:kind AS text) IS NULL OR j.kind = CAST(:kind AS text))
  AND (CAST(:states AS text[]) IS NULL OR j.state = ANY (CAST(:states AS text[])))
  AND (CAST(:model AS text) IS NULL OR j.model = CAST(:model AS text))
  AND (CAST(:created_after AS timestamptz) IS NULL OR j.created_at > CAST(:created_after AS timestamptz))
  AND (CAST(:created_before AS timestamptz) IS NULL OR j.created_at < CAST(:created_before AS timestamptz))
  AND NOT EXISTS (SELECT FROM jsonb_array_elements(CAST(:metadata AS jsonb)) AS f(meanings)
                  WHERE NOT EXISTS (SELECT FROM jsonb_array_elements(f.meanings) AS m(meaning)
                                    WHERE j.metadata @> m.meaning))
  AND (CAST(:text AS text) IS NULL
       OR strpos(lower(concat_ws(E'\n', j.input ->> 'prompt', j.input ->> 'text',
                                 (SELECT string_agg(w.message ->> 'content', E'\n')
                                  FROM jsonb_array_elements(CASE jsonb_typeof(j.input -> 'messages') WHEN 'array'
                                                            THEN j.input -> 'messages' ELSE '[]' END) AS w(message)))),
                 lower(CAST(:text AS text))) > 0)
ORDER BY j.id DESC LIMIT :limit

-- name: list_jobs_end
-- The last of the jobs that a page may look at; no row when there are fewer.
SELECT i.id FROM jobs i
WHERE i.user_id = :user_id AND i.id < coalesce(CAST(:before AS uuid), 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY i.id DESC OFFSET CAST(:scanned AS integer) - 1 LIMIT 1

-- name: job_for_events
-- What a stream of a job's events begins with.
SELECT j.id, j.kind, j.state, j.attempt FROM jobs j WHERE j.id = :id AND j.user_id = :user_id

-- name: cancel_job
-- Ask for a job's end; see sql/functions/jobs.sql.
SELECT request_cancel(:id, :user_id) AS state

-- name: events_of_job
-- A job's public events after one of them, in order.
SELECT e.job_id, e.job_seq, e.type, e.attempt, e.data, e.created_at
FROM job_events e WHERE e.job_id = :job_id AND e.job_seq > :after ORDER BY e.job_seq

-- name: events_of_jobs
-- The public events of some jobs in a stretch of the feed, in order.
SELECT e.job_id, e.job_seq, e.type, e.attempt, e.data, e.created_at
FROM job_events e
WHERE e.seq > :after AND e.seq <= :upto AND e.job_seq IS NOT NULL AND e.job_id = ANY (CAST(:jobs AS uuid[]))
ORDER BY e.seq

-- name: users_of_events
-- Which of these users have events in a stretch of the feed.
SELECT DISTINCT e.user_id FROM job_events e
WHERE e.seq > :after AND e.seq <= :upto AND e.user_id = ANY (CAST(:users AS uuid[]))

-- name: events_of_user
-- The public events of all of a user's jobs after one of them, in order, so many at most.
SELECT e.seq, e.job_id, e.job_seq, e.type, e.attempt, e.data, e.created_at
FROM job_events e WHERE e.user_id = :user_id AND e.seq > :after AND e.job_seq IS NOT NULL ORDER BY e.seq LIMIT :limit

-- name: get_artifact
-- A user's artifact, deleted ones too.
SELECT a.id, a.job_id, a.index, a.sha256, a.media_type, a.bytes, a.thumbnail_sha256, a.created_at, a.deleted_at, a.withheld_at,
       j.kind
FROM artifacts a JOIN jobs j ON j.id = a.job_id
WHERE a.id = :id AND a.user_id = :user_id

-- name: artifact_for_use
-- A user's artifact as the input of a job.
SELECT a.sha256, a.media_type, a.width, a.height, a.duration_s, a.deleted_at IS NULL AND a.withheld_at IS NULL AS usable
FROM artifacts a WHERE a.id = :id AND a.user_id = :user_id

-- name: upload_for_use
-- A user's upload as the input of a job.
SELECT u.sha256, u.media_type, u.width, u.height, u.duration_s, u.deleted_at IS NULL AND u.expires_at > now() AS usable
FROM uploads u WHERE u.id = :id AND u.user_id = :user_id

-- name: insert_upload
-- Note an upload whose bytes are in the artifact store.
INSERT INTO uploads (id, user_id, sha256, media_type, bytes, width, height, duration_s, expires_at)
VALUES (:id, :user_id, :sha256, :media_type, :bytes, :width, :height, :duration_s,
        now() + make_interval(secs => CAST(:ttl_s AS double precision)))
RETURNING id, sha256, media_type, bytes, width, height, duration_s, expires_at

-- name: list_plans
-- The plans, the smallest first.
SELECT p.id, p.title, p.price_usd_cents, p.tier, p.daily_mt, p.submissions_per_min, p.requests_per_min, p.max_queued,
       p.max_running, p.max_image_px, p.max_video_s, p.retention_days
FROM plans p ORDER BY p.position, p.id

-- name: quota_of_user
-- Today's use of a user and when it starts anew.
SELECT CASE WHEN s.day = utc_day(now()) THEN s.used_mt ELSE 0 END AS used_mt, l.daily_mt, s.queued, s.running,
       (utc_day(now()) + 1)::timestamp AT TIME ZONE 'utc' AS resets_at
FROM user_state s JOIN user_limits l ON l.user_id = s.user_id WHERE s.user_id = :user_id

-- name: usage_of_user
-- What a user, with the accounts that were joined to it, used in a range of days, by kind, the newest day first.
SELECT u.day, u.kind, sum(u.used_mt)::bigint AS used_mt, sum(u.jobs)::integer AS jobs
FROM usage_daily u
WHERE u.user_id IN (SELECT a.id FROM users a WHERE :user_id IN (a.id, a.merged_into))
  AND u.day BETWEEN CAST(:first AS date) AND CAST(:last AS date)
  AND (CAST(:kind AS text) IS NULL OR u.kind = CAST(:kind AS text))
GROUP BY u.day, u.kind ORDER BY u.day DESC, u.kind

-- name: list_keys
-- A user's API keys, the newest first.
SELECT k.id, k.name, k.scopes, k.daily_cap_mt, k.created_at, k.last_used_at, k.expires_at, k.revoked_at
FROM api_keys k WHERE k.user_id = :user_id ORDER BY k.created_at DESC, k.id LIMIT 1000

-- name: get_key
-- One of a user's API keys.
SELECT k.id, k.name, k.scopes, k.daily_cap_mt, k.created_at, k.last_used_at, k.expires_at, k.revoked_at
FROM api_keys k WHERE k.id = :id AND k.user_id = :user_id

-- name: count_live_keys
-- How many keys of a user work.
SELECT count(*)::integer AS live FROM api_keys k
WHERE k.user_id = :user_id AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())

-- name: rename_key
-- Give one of a user's API keys another name.
UPDATE api_keys SET name = :name WHERE id = :id AND user_id = :user_id

-- name: revoke_key
-- End one of a user's API keys for good.
UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE id = :id AND user_id = :user_id

-- name: create_user
-- Add a user unless the name is taken.
INSERT INTO users (id, name, plan_id) VALUES (:id, :name, :plan_id)
ON CONFLICT (name) WHERE deleted_at IS NULL DO NOTHING

-- name: find_users
-- A page of the users, the newest first, by what is given of name, identity, plan and ban.
SELECT u.id, u.name, u.plan_id, u.is_admin, u.created_at, u.banned_at, u.ban_reason,
       CASE WHEN s.day = utc_day(now()) THEN s.used_mt ELSE 0 END AS used_mt, s.queued, s.running
FROM users u JOIN user_state s ON s.user_id = u.id
WHERE u.deleted_at IS NULL AND u.id < coalesce(CAST(:before AS uuid), 'ffffffff-ffff-ffff-ffff-ffffffffffff')
  AND (CAST(:text AS text) IS NULL OR strpos(lower(u.name), lower(CAST(:text AS text))) > 0)
  AND (CAST(:provider AS text) IS NULL
       OR u.id IN (SELECT i.user_id FROM identities i
                   WHERE i.provider = CAST(:provider AS text) AND i.subject = CAST(:identity AS text)))
  AND (CAST(:plan_id AS text) IS NULL OR u.plan_id = CAST(:plan_id AS text))
  AND (CAST(:banned AS boolean) IS NULL OR (u.banned_at IS NOT NULL) = CAST(:banned AS boolean))
ORDER BY u.id DESC LIMIT :limit

-- name: get_user
-- A user, as an operator sees one.
SELECT u.id, u.name, u.plan_id, u.is_admin, u.created_at, u.banned_at, u.ban_reason,
       CASE WHEN s.day = utc_day(now()) THEN s.used_mt ELSE 0 END AS used_mt, s.queued, s.running
FROM users u JOIN user_state s ON s.user_id = u.id WHERE u.id = :id AND u.deleted_at IS NULL

-- name: text_of_job
-- The text that a text job has made.
SELECT j.output ->> 'text' AS text FROM jobs j
WHERE j.id = :job_id AND NOT coalesce(j.moderation @> '{"withheld": true}', false)

-- name: ping
-- Whether Postgres answers, and can be written to.
SELECT NOT pg_is_in_recovery() AS writable

-- name: backlog
-- How many jobs of all users wait.
SELECT coalesce(sum(s.queued), 0)::bigint AS waiting FROM user_state s WHERE s.queued > 0

-- name: jobs_for_metrics
-- Jobs that wait or run, and those that ended in the last hour; each part has its partial index.
SELECT j.state, j.kind, j.tier, count(*)::integer AS jobs FROM jobs j WHERE j.state = 'created' GROUP BY j.state, j.kind, j.tier
UNION ALL
SELECT j.state, j.kind, j.tier, count(*)::integer AS jobs FROM jobs j WHERE j.state = 'queued' GROUP BY j.state, j.kind, j.tier
UNION ALL
SELECT j.state, j.kind, j.tier, count(*)::integer AS jobs FROM jobs j WHERE j.state = 'running' GROUP BY j.state, j.kind, j.tier
UNION ALL
SELECT j.state, j.kind, j.tier, count(*)::integer AS jobs FROM jobs j
WHERE j.finished_at > now() - interval '1 hour' GROUP BY j.state, j.kind, j.tier

-- name: oldest_queued
-- How long the oldest queued job of each tier waits.
SELECT j.tier, extract(epoch FROM now() - min(j.queued_at))::double precision AS age_s
FROM jobs j WHERE j.state = 'queued' GROUP BY j.tier

-- name: leases_overdue
-- Running jobs whose lease has run out.
SELECT count(*)::integer AS overdue FROM jobs j WHERE j.state = 'running' AND j.lease_expires_at < now()

-- name: usage_today
-- What all users together used today, by kind: the sums of the day's ledger.
SELECT u.kind, sum(u.used_mt)::bigint AS used_mt, sum(u.jobs)::bigint AS jobs
FROM usage_daily u WHERE u.day = utc_day(now()) GROUP BY u.kind
