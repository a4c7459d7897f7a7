-- Rules, reports and their review, the banner, and acts of operators that are sent twice.

-- name: read_standing
-- The version of the rules, and the banner.
SELECT s.rules_version, s.banner, s.banner_since, s.share_generation, s.share_before_until FROM standing s

-- name: live_rules
-- All rules, the oldest first.
SELECT r.id, r.match, r.text, r.action, r.age_restricted, r.kinds FROM moderation_rules r ORDER BY r.id

-- name: rules_changed
-- Tell every replica; also what serializes the changes of rules, so it comes first in its transaction.
UPDATE standing SET rules_version = rules_version + 1

-- name: count_rules
-- How many rules there are.
SELECT count(*)::integer AS rules FROM moderation_rules

-- name: list_rules
-- A page of the rules, the newest first.
SELECT r.id, r.match, r.text, r.action, r.age_restricted, r.kinds, r.note, r.actor, r.created_at, r.changed_at
FROM moderation_rules r
WHERE r.id < coalesce(CAST(:before AS uuid), 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY r.id DESC LIMIT :limit

-- name: get_rule
-- One rule.
SELECT r.id, r.match, r.text, r.action, r.age_restricted, r.kinds, r.note, r.actor, r.created_at, r.changed_at
FROM moderation_rules r WHERE r.id = :id

-- name: insert_rule
-- Add a rule unless there is one that looks for the same.
INSERT INTO moderation_rules (id, match, text, action, age_restricted, kinds, note, actor)
VALUES (:id, :match, :text, :action, :age_restricted, CAST(:kinds AS text[]), :note, :actor)
ON CONFLICT ON CONSTRAINT moderation_rules_once DO NOTHING

-- name: change_rule
-- Replace what a rule does; what it looks for stays.
UPDATE moderation_rules
SET action = :action, age_restricted = :age_restricted, kinds = CAST(:kinds AS text[]), note = :note, actor = :actor,
    changed_at = now()
WHERE id = :id

-- name: delete_rule
-- End a rule.
DELETE FROM moderation_rules WHERE id = :id

-- name: set_banner
-- Show everybody a message; a new text begins anew.
UPDATE standing SET banner = CAST(:message AS text), banner_actor = :actor, banner_since = now()
RETURNING banner, banner_actor, banner_since

-- name: clear_banner
-- Show no banner; the one that was shown, if any.
UPDATE standing s SET banner = NULL, banner_actor = NULL, banner_since = NULL
FROM (SELECT o.banner FROM standing o FOR UPDATE) was
RETURNING was.banner

-- name: get_banner
-- The banner, as an operator sees it.
SELECT s.banner, s.banner_actor, s.banner_since FROM standing s WHERE s.banner IS NOT NULL

-- name: rotate_shares
-- Sign links with another key; those of the one before are good for a while.
UPDATE standing
SET share_generation = share_generation + 1,
    share_before_until = now() + make_interval(secs => CAST(:keep_for_s AS double precision))
RETURNING share_generation, share_before_until

-- name: job_for_report
-- A job of this user, or of anybody for who may report any.
SELECT j.id, j.user_id FROM jobs j
WHERE j.id = :id AND (CAST(:any AS boolean) OR j.user_id = :user_id)

-- name: artifact_for_report
-- The same of a file.
SELECT a.id, a.job_id, a.user_id FROM artifacts a
WHERE a.id = :id AND (CAST(:any AS boolean) OR a.user_id = :user_id)

-- name: insert_report
-- Report something, once for each who reports while it is open.
INSERT INTO moderation_reports (id, job_id, artifact_id, owner_id, reporter_id, category, reason)
VALUES (:id, :job_id, :artifact_id, :owner_id, :reporter_id, :category, :reason)
ON CONFLICT (reporter_id, (coalesce(artifact_id, job_id))) WHERE state = 'open' AND reporter_id IS NOT NULL DO NOTHING

-- name: open_report_of
-- The open report of somebody about something.
SELECT r.id, r.job_id, r.artifact_id, r.category, r.reason, r.state, r.created_at, r.reviewed_at
FROM moderation_reports r
WHERE r.reporter_id = :reporter_id AND coalesce(r.artifact_id, r.job_id) = :about AND r.state = 'open'

-- name: list_reports_of
-- A page of what somebody has reported, the newest first.
SELECT r.id, r.job_id, r.artifact_id, r.category, r.reason, r.state, r.created_at, r.reviewed_at
FROM moderation_reports r
WHERE r.reporter_id = :reporter_id AND r.id < coalesce(CAST(:before AS uuid), 'ffffffff-ffff-ffff-ffff-ffffffffffff')
ORDER BY r.id DESC LIMIT :limit

-- name: count_open_reports_of
-- How many reports of somebody wait.
SELECT count(*)::integer AS waiting FROM moderation_reports r WHERE r.reporter_id = :reporter_id AND r.state = 'open'

-- name: list_reports
-- A page of all reports, the newest first, with the prompt that they are about.
SELECT r.id, r.job_id, r.artifact_id, r.owner_id, r.reporter_id, r.category, r.reason, r.state, r.created_at, r.reviewed_at,
       r.reviewed_by, r.note, r.refunded_mt, j.kind, j.state AS job_state, j.input, j.moderation
FROM moderation_reports r LEFT JOIN jobs j ON j.id = r.job_id
WHERE (r.created_at, r.id) < (coalesce(CAST(:before_at AS timestamptz), 'infinity'),
                              coalesce(CAST(:before AS uuid), 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
  AND (CAST(:state AS text) IS NULL OR r.state = CAST(:state AS text))
  AND (CAST(:owner_id AS uuid) IS NULL OR r.owner_id = CAST(:owner_id AS uuid))
ORDER BY r.created_at DESC, r.id DESC LIMIT :limit

-- name: get_report
-- One report.
SELECT r.id, r.job_id, r.artifact_id, r.owner_id, r.reporter_id, r.category, r.reason, r.state, r.created_at, r.reviewed_at,
       r.reviewed_by, r.note, r.refunded_mt, j.kind, j.state AS job_state, j.input, j.moderation
FROM moderation_reports r LEFT JOIN jobs j ON j.id = r.job_id WHERE r.id = :id

-- name: uphold_report
-- Withhold what a report is about; see sql/functions/moderation.sql.
SELECT u.outcome, u.refunded_mt FROM uphold_report(:id, :actor, :subject, :note) AS u

-- name: dismiss_report
-- Close a report without doing anything.
UPDATE moderation_reports SET state = 'dismissed', reviewed_at = now(), reviewed_by = :actor, note = :note
WHERE id = :id AND state = 'open'

-- name: artifact_for_review
-- A file that is reported, also a withheld one, for the operator who reviews it.
SELECT a.id, a.job_id, a.index, a.sha256, a.media_type, a.bytes, a.thumbnail_sha256, a.created_at, j.kind
FROM artifacts a JOIN jobs j ON j.id = a.job_id
WHERE a.id = :id AND EXISTS (SELECT FROM moderation_reports r WHERE r.job_id = a.job_id)

-- name: set_ban
-- Close or reopen an account; see sql/functions/moderation.sql.
SELECT set_ban(:user_id, CAST(:reason AS text), :actor, :subject) AS outcome

-- name: claim_operator_answer
-- Be the first to act under an Idempotency-Key; waits for who is just acting under it.
INSERT INTO operator_answers (user_id, key, body_sha256) VALUES (:user_id, :key, :body_sha256)
ON CONFLICT (user_id, key) DO UPDATE SET body_sha256 = excluded.body_sha256, answer = NULL, created_at = now()
WHERE operator_answers.created_at <= now() - interval '24 hours'

-- name: operator_answer
-- What was answered under an Idempotency-Key.
SELECT o.body_sha256, o.answer FROM operator_answers o WHERE o.user_id = :user_id AND o.key = :key

-- name: keep_operator_answer
-- Keep the answer, in the transaction of the act.
UPDATE operator_answers SET answer = :answer WHERE user_id = :user_id AND key = :key

-- name: prune_operator_answers
-- Forget them after 24 hours.
DELETE FROM operator_answers o
WHERE (o.user_id, o.key) IN (SELECT p.user_id, p.key FROM operator_answers p
                             WHERE p.created_at <= CAST(:now AS timestamptz) - interval '24 hours'
                             ORDER BY p.created_at LIMIT :limit FOR UPDATE SKIP LOCKED)
