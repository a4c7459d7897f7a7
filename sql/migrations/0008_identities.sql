-- Persons who come through a bot: their settings, the limit on sign-ups, and what is kept of identities that have left.
ALTER TABLE users ADD COLUMN settings jsonb NOT NULL DEFAULT '{}'
    CONSTRAINT users_settings_object CHECK (jsonb_typeof(settings) = 'object');

ALTER TABLE identities ADD COLUMN display_name text
    CONSTRAINT identities_display_name_length CHECK (length(display_name) BETWEEN 1 AND 100);
ALTER TABLE identities ADD COLUMN locale text
    CONSTRAINT identities_locale_length CHECK (length(locale) BETWEEN 2 AND 35);

ALTER TABLE api_keys
    ADD CONSTRAINT api_keys_scopes_known CHECK (cardinality(scopes) > 0 AND scopes <@ '{jobs,read,service,admin}'),
    ADD CONSTRAINT api_keys_service_uncapped CHECK (daily_cap_mt IS NULL OR NOT scopes @> '{service}');

CREATE TABLE sign_ups (
    provider text PRIMARY KEY,
    tat      timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE former_identities (
    identity_hmac bytea PRIMARY KEY CONSTRAINT former_identities_hmac_length CHECK (length(identity_hmac) = 32),
    user_id       uuid NOT NULL REFERENCES users (id),
    day           date NOT NULL,
    used_mt       bigint NOT NULL CONSTRAINT former_identities_used_not_negative CHECK (used_mt >= 0),
    banned_at     timestamptz,
    ban_reason    text
);
CREATE INDEX former_identities_user ON former_identities (user_id);
CREATE INDEX former_identities_day ON former_identities (day) WHERE banned_at IS NULL;
