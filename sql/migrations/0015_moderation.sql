-- Moderation: rules, what they found, withheld results, reports with their review; the banner; acts that are sent twice.

CREATE TABLE moderation_rules (
    id             uuid PRIMARY KEY,
    match          text NOT NULL CONSTRAINT moderation_rules_match_known CHECK (match IN ('words', 'pattern')),
    text           text NOT NULL CONSTRAINT moderation_rules_text_length CHECK (length(text) BETWEEN 1 AND 500),
    action         text NOT NULL CONSTRAINT moderation_rules_action_known CHECK (action IN ('block', 'flag', 'spoiler')),
    age_restricted boolean NOT NULL DEFAULT false,
    kinds          text[] NOT NULL DEFAULT '{}',
    note           text NOT NULL DEFAULT '',
    actor          text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    changed_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT moderation_rules_once UNIQUE (match, text)
);

CREATE TABLE standing (
    singleton     boolean PRIMARY KEY DEFAULT true CONSTRAINT standing_one_row CHECK (singleton),
    rules_version bigint NOT NULL DEFAULT 0,
    banner        text CONSTRAINT standing_banner_length CHECK (length(banner) BETWEEN 1 AND 300),
    banner_actor  text,
    banner_since  timestamptz,
    share_generation   integer NOT NULL DEFAULT 1,
    share_before_until timestamptz,
    CONSTRAINT standing_banner_whole CHECK ((banner IS NULL) = (banner_since IS NULL AND banner_actor IS NULL))
);
INSERT INTO standing (singleton) VALUES (true);

ALTER TABLE jobs ADD COLUMN moderation jsonb;

ALTER TABLE artifacts ADD COLUMN withheld_at timestamptz;
CREATE INDEX artifacts_user_id ON artifacts (user_id, id DESC);

ALTER TABLE moderation_reports
    ADD COLUMN owner_id uuid REFERENCES users (id),
    ADD COLUMN category text NOT NULL DEFAULT 'other' CONSTRAINT moderation_reports_category_known CHECK
        (category IN ('sexual_minors', 'nonconsensual_intimate', 'violence', 'hate', 'illegal', 'copyright', 'privacy',
                      'spam', 'flagged', 'other')),
    ADD COLUMN reviewed_by text,
    ADD COLUMN note text NOT NULL DEFAULT '',
    ADD COLUMN refunded_mt bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT moderation_reports_reviewed CHECK ((state = 'open') = (reviewed_at IS NULL));
CREATE UNIQUE INDEX moderation_reports_open_once ON moderation_reports (reporter_id, coalesce(artifact_id, job_id))
    WHERE state = 'open' AND reporter_id IS NOT NULL;
CREATE INDEX moderation_reports_job ON moderation_reports (job_id);

CREATE TABLE operator_answers (
    user_id     uuid NOT NULL REFERENCES users (id),
    key         text NOT NULL,
    body_sha256 bytea NOT NULL,
    answer      jsonb,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, key)
);
CREATE INDEX operator_answers_created ON operator_answers (created_at);
