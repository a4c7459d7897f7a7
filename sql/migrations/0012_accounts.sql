-- Linking, merging, unlinking and deleting of accounts.
ALTER TABLE users ADD COLUMN merged_into uuid REFERENCES users (id);
ALTER TABLE users ADD CONSTRAINT users_merged_is_gone CHECK (merged_into IS NULL OR (deleted_at IS NOT NULL AND merged_into <> id));
CREATE INDEX users_merged_into ON users (merged_into) WHERE merged_into IS NOT NULL;
CREATE INDEX users_deleted ON users (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE link_codes (
    code_hmac  bytea PRIMARY KEY CONSTRAINT link_codes_hmac_length CHECK (length(code_hmac) = 32),
    user_id    uuid NOT NULL CONSTRAINT link_codes_one_each UNIQUE REFERENCES users (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX link_codes_expires ON link_codes (expires_at);

CREATE TABLE link_tries (
    user_id uuid PRIMARY KEY,
    tat     timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE carried_use (
    user_id      uuid NOT NULL REFERENCES users (id),
    from_user_id uuid NOT NULL REFERENCES users (id),
    day          date NOT NULL,
    used_mt      bigint NOT NULL CONSTRAINT carried_use_positive CHECK (used_mt > 0),
    PRIMARY KEY (user_id, from_user_id, day)
);
CREATE INDEX carried_use_from ON carried_use (from_user_id);

ALTER TABLE job_events DROP CONSTRAINT job_events_type_known;
ALTER TABLE job_events ADD CONSTRAINT job_events_type_known CHECK (type IN ('created', 'queued', 'started', 'output',
    'completed', 'failed', 'cancelled', 'expired', 'cancel_requested', 'plan_changed', 'owner_changed')) NOT VALID;
ALTER TABLE job_events VALIDATE CONSTRAINT job_events_type_known;
