-- The whole data model, as a newcomer reads it. A test builds one database from this file and one from
-- sql/migrations/ and asserts that they are the same. The functions that write jobs are in sql/functions/jobs.sql.
--
-- Money is integer millitokens (…_mt; 1000 mt = 1 token = one 1024×1024 image). Times are timestamptz, days are UTC.

-- Who may do how much. Rows come from seed.sql; the operator may change them.
CREATE TABLE plans (
    id                  text PRIMARY KEY,
    title               text NOT NULL,
    price_usd_cents     integer NOT NULL CONSTRAINT plans_price_not_negative CHECK (price_usd_cents >= 0),
    tier                text NOT NULL CONSTRAINT plans_tier_known CHECK (tier IN ('pro', 'starter', 'free')),
    daily_mt            bigint NOT NULL CONSTRAINT plans_daily_not_negative CHECK (daily_mt >= 0),
    submissions_per_min integer NOT NULL CONSTRAINT plans_submissions_positive CHECK (submissions_per_min > 0),
    requests_per_min    integer NOT NULL CONSTRAINT plans_requests_positive CHECK (requests_per_min > 0),
    max_queued          integer NOT NULL CONSTRAINT plans_queued_not_negative CHECK (max_queued >= 0),
    max_running         integer NOT NULL CONSTRAINT plans_running_positive CHECK (max_running > 0),
    max_image_px        bigint NOT NULL CONSTRAINT plans_image_positive CHECK (max_image_px > 0),
    max_video_s         double precision NOT NULL CONSTRAINT plans_video_positive CHECK (max_video_s > 0),
    retention_days      integer NOT NULL CONSTRAINT plans_retention_positive CHECK (retention_days > 0),
    position            integer NOT NULL DEFAULT 0
);

-- One person. The limits that are not NULL replace those of the plan (audited).
CREATE TABLE users (
    id                  uuid PRIMARY KEY,
    name                text NOT NULL CONSTRAINT users_name_length CHECK (length(name) BETWEEN 1 AND 200),
    plan_id             text NOT NULL REFERENCES plans (id),
    is_admin            boolean NOT NULL DEFAULT false,
    daily_mt            bigint CONSTRAINT users_daily_not_negative CHECK (daily_mt >= 0),
    submissions_per_min integer CONSTRAINT users_submissions_positive CHECK (submissions_per_min > 0),
    requests_per_min    integer CONSTRAINT users_requests_positive CHECK (requests_per_min > 0),
    max_queued          integer CONSTRAINT users_queued_not_negative CHECK (max_queued >= 0),
    max_running         integer CONSTRAINT users_running_positive CHECK (max_running > 0),
    max_image_px        bigint CONSTRAINT users_image_positive CHECK (max_image_px > 0),
    max_video_s         double precision CONSTRAINT users_video_positive CHECK (max_video_s > 0),
    retention_days      integer CONSTRAINT users_retention_positive CHECK (retention_days > 0),
    created_at          timestamptz NOT NULL DEFAULT now(),
    banned_at           timestamptz,
    ban_reason          text,
    deleted_at          timestamptz,
    settings            jsonb NOT NULL DEFAULT '{}' -- the person's own, the same on every platform; bots read them
                            CONSTRAINT users_settings_object CHECK (jsonb_typeof(settings) = 'object'),
    merged_into         uuid REFERENCES users (id), -- who has this user's things now; always a user who is nobody's part
    CONSTRAINT users_merged_is_gone CHECK (merged_into IS NULL OR (deleted_at IS NOT NULL AND merged_into <> id))
);
CREATE UNIQUE INDEX users_live_name ON users (name) WHERE deleted_at IS NULL;
CREATE INDEX users_merged_into ON users (merged_into) WHERE merged_into IS NOT NULL;
CREATE INDEX users_deleted ON users (deleted_at) WHERE deleted_at IS NOT NULL;

-- The hot row of a user: locked first by whatever admits, claims or ends jobs. It always exists (trigger below), so a
-- limit is never a count(*). used_mt belongs to `day`; a new day starts at zero.
CREATE TABLE user_state (
    user_id uuid PRIMARY KEY REFERENCES users (id),
    day     date NOT NULL DEFAULT (now() AT TIME ZONE 'utc')::date,
    used_mt bigint NOT NULL DEFAULT 0,
    queued  integer NOT NULL DEFAULT 0 CONSTRAINT user_state_queued_not_negative CHECK (queued >= 0),
    running integer NOT NULL DEFAULT 0 CONSTRAINT user_state_running_not_negative CHECK (running >= 0),
    tat     timestamptz NOT NULL DEFAULT now(), -- theoretical arrival time of the submission rate limit (GCRA)
    withheld_day date, -- the day that `withheld` counts; another day's counts nothing
    withheld integer NOT NULL DEFAULT 0 CONSTRAINT user_state_withheld_not_negative CHECK (withheld >= 0)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);

-- Who a user is elsewhere. One quota over all of them.
CREATE TABLE identities (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES users (id),
    provider   text NOT NULL CONSTRAINT identities_provider_known CHECK (provider IN ('telegram', 'discord', 'email', 'oidc')),
    subject    text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    display_name text CONSTRAINT identities_display_name_length CHECK (length(display_name) BETWEEN 1 AND 100),
    locale     text CONSTRAINT identities_locale_length CHECK (length(locale) BETWEEN 2 AND 35),
    CONSTRAINT identities_provider_subject UNIQUE (provider, subject)
);
CREATE INDEX identities_user ON identities (user_id);

-- The limit on sign-ups: tat is the theoretical arrival time (GCRA) of the next user whom a provider brings. The row is
-- locked while an identity is seen for the first time, so two replicas that see it at once make one user.
CREATE TABLE sign_ups (
    provider text PRIMARY KEY,
    tat      timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- Identities that have left an account, by a keyed hash: what the account had used of the day, and its ban. Who comes
-- back on the same day finds that much used, and whoever was banned stays so. Those of other days without a ban go.
CREATE TABLE former_identities (
    identity_hmac bytea PRIMARY KEY CONSTRAINT former_identities_hmac_length CHECK (length(identity_hmac) = 32),
    user_id       uuid NOT NULL REFERENCES users (id), -- the account that it has left
    day           date NOT NULL,
    used_mt       bigint NOT NULL CONSTRAINT former_identities_used_not_negative CHECK (used_mt >= 0),
    banned_at     timestamptz,
    ban_reason    text
);
CREATE INDEX former_identities_user ON former_identities (user_id);
CREATE INDEX former_identities_day ON former_identities (day) WHERE banned_at IS NULL;

-- A code by which a person brings another identity, or another account, to this user: short, for ten minutes, once. Its
-- keyed hash is kept, for a plain one of so few letters could be tried out.
CREATE TABLE link_codes (
    code_hmac  bytea PRIMARY KEY CONSTRAINT link_codes_hmac_length CHECK (length(code_hmac) = 32),
    user_id    uuid NOT NULL CONSTRAINT link_codes_one_each UNIQUE REFERENCES users (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX link_codes_expires ON link_codes (expires_at);

-- How often a user may try a code (GCRA), right or wrong. It names no user to the database: the lock that comes with that
-- would be taken before the codes', against their order.
CREATE TABLE link_tries (
    user_id uuid PRIMARY KEY,
    tat     timestamptz NOT NULL
) WITH (fillfactor = 50);

-- What a user began a day with because an identity had left another account on it. It is counted in both; should the two
-- become one again on that day, it is counted once.
CREATE TABLE carried_use (
    user_id      uuid NOT NULL REFERENCES users (id),
    from_user_id uuid NOT NULL REFERENCES users (id),
    day          date NOT NULL,
    used_mt      bigint NOT NULL CONSTRAINT carried_use_positive CHECK (used_mt > 0),
    PRIMARY KEY (user_id, from_user_id, day)
);
CREATE INDEX carried_use_from ON carried_use (from_user_id);

-- Which plan a user has, from what source, until when. users.plan_id is the one that holds now.
CREATE TABLE grants (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES users (id),
    plan_id    text NOT NULL REFERENCES plans (id),
    source     text NOT NULL CONSTRAINT grants_source_known CHECK (source IN ('operator', 'telegram_stars', 'stripe', 'gift')),
    reference  text, -- the payment's own id: a repeated notice of it changes nothing
    amount_usd_cents integer NOT NULL DEFAULT 0,
    starts_at  timestamptz NOT NULL DEFAULT now(),
    ends_at    timestamptz,
    CONSTRAINT grants_reference UNIQUE (source, reference)
);
CREATE INDEX grants_user ON grants (user_id, starts_at DESC);

-- tsr_<id>_<secret>: the id is here in clear, of the secret only its SHA-256.
CREATE TABLE api_keys (
    id            text PRIMARY KEY,
    user_id       uuid NOT NULL REFERENCES users (id),
    secret_sha256 bytea NOT NULL CONSTRAINT api_keys_sha256_length CHECK (length(secret_sha256) = 32),
    name          text NOT NULL,
    scopes        text[] NOT NULL DEFAULT '{jobs}',
    daily_cap_mt  bigint,
    created_at    timestamptz NOT NULL DEFAULT now(),
    last_used_at  timestamptz,
    expires_at    timestamptz,
    revoked_at    timestamptz,
    CONSTRAINT api_keys_scopes_known CHECK (cardinality(scopes) > 0 AND scopes <@ '{jobs,read,service,admin}'),
    -- Jobs of a service key belong to many users, whose locks guard no common counter: their own limits bind.
    CONSTRAINT api_keys_service_uncapped CHECK (daily_cap_mt IS NULL OR NOT scopes @> '{service}')
);
CREATE INDEX api_keys_user ON api_keys (user_id);

-- What the jobs of a key hold or were charged of a day, for its daily cap. Guarded by the lock of its user's user_state;
-- nothing is decided by the counter of a service key, which has no cap.
CREATE TABLE api_key_usage (
    key_id  text NOT NULL REFERENCES api_keys (id),
    day     date NOT NULL,
    used_mt bigint NOT NULL,
    PRIMARY KEY (key_id, day)
) WITH (fillfactor = 50);

CREATE TABLE web_sessions (
    id_sha256  bytea PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES users (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX web_sessions_user ON web_sessions (user_id);

-- The files of batches: what was sent in, and what came out. The bytes are in the artifact store; access goes by the row.
CREATE TABLE batch_files (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES users (id),
    purpose    text NOT NULL CONSTRAINT batch_files_purpose_known CHECK (purpose IN ('batch', 'batch_output')),
    filename   text NOT NULL,
    sha256     text NOT NULL,
    bytes      bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    deleted_at timestamptz
);
CREATE INDEX batch_files_user ON batch_files (user_id, id DESC);
CREATE INDEX batch_files_sha256 ON batch_files (sha256);
CREATE INDEX batch_files_due ON batch_files (expires_at) WHERE deleted_at IS NULL;

-- A file of lines, each of which becomes a job when there is room for it: a line that waits for that holds no tokens.
CREATE TABLE batches (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES users (id),
    state      text NOT NULL CONSTRAINT batches_state_known
                   CHECK (state IN ('expanding', 'paused', 'running', 'cancelling', 'completed', 'cancelled', 'expired', 'failed')),
    input      uuid NOT NULL CONSTRAINT batches_input REFERENCES batch_files (id),
    counts     jsonb NOT NULL DEFAULT '{}', -- of a batch that has ended: what became of its lines
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz,
    api_key_id text REFERENCES api_keys (id),
    shape      text NOT NULL CONSTRAINT batches_shape_known CHECK (shape IN ('native', 'openai')),
    endpoint   text NOT NULL DEFAULT '', -- of OpenAI's shape: what its lines ask for
    completion_window text NOT NULL,
    expires_at timestamptz NOT NULL, -- what is not done by then is given up
    metadata   jsonb NOT NULL DEFAULT '{}',
    total      integer NOT NULL DEFAULT 0, -- lines that ask for something
    next_line  integer NOT NULL DEFAULT 0, -- lines of the file that were read, and
    next_byte  bigint NOT NULL DEFAULT 0, -- where the first that was not begins
    pause_reason text, -- why no line is expanded at the moment
    paused_until timestamptz,
    next_try_at timestamptz NOT NULL DEFAULT now(),
    ends_as    text NOT NULL DEFAULT 'completed'
                   CONSTRAINT batches_ends_as_known CHECK (ends_as IN ('completed', 'cancelled', 'expired', 'failed')),
    cancelling_at timestamptz,
    errors     jsonb NOT NULL DEFAULT '[]', -- why it failed as a whole
    output_file_id uuid REFERENCES batch_files (id),
    error_file_id uuid REFERENCES batch_files (id),
    idempotency_key text,
    body_sha256 bytea,
    CONSTRAINT batches_idempotency UNIQUE (user_id, idempotency_key),
    CONSTRAINT batches_ended_is_final CHECK ((state IN ('completed', 'cancelled', 'expired', 'failed')) = (ended_at IS NOT NULL))
);
CREATE INDEX batches_user ON batches (user_id, created_at DESC);
CREATE INDEX batches_live ON batches (next_try_at) WHERE ended_at IS NULL;
CREATE INDEX batches_input ON batches (input);

-- What became of each line that was read: a job, or a refusal. One row for a line, whoever expands it how often.
CREATE TABLE batch_lines (
    batch_id  uuid NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
    line      integer NOT NULL, -- in the file, from 1
    custom_id text NOT NULL DEFAULT '',
    job_id    uuid, -- kept when the job's row is pruned
    error     jsonb,
    options   jsonb, -- what of OpenAI's request is of its answer, and not of the job
    PRIMARY KEY (batch_id, line),
    CONSTRAINT batch_lines_job_or_error CHECK ((job_id IS NULL) = (error IS NOT NULL))
);
CREATE UNIQUE INDEX batch_lines_job ON batch_lines (job_id) WHERE job_id IS NOT NULL;

-- An input file. The bytes are in the artifact store under their hash; access goes through this row.
CREATE TABLE uploads (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES users (id),
    sha256     text NOT NULL,
    media_type text NOT NULL,
    bytes      bigint NOT NULL,
    width      integer,
    height     integer,
    duration_s double precision,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    deleted_at timestamptz
);
CREATE INDEX uploads_user ON uploads (user_id, created_at DESC);
CREATE INDEX uploads_sha256 ON uploads (sha256);
CREATE INDEX uploads_due ON uploads (expires_at) WHERE deleted_at IS NULL;

-- The way of a job: created → queued → running → completed, failed, cancelled or expired. The legal transitions are
-- those of tessera/jobs.py; the trigger jobs_guard_transition holds them here.
CREATE TABLE jobs (
    id                  uuid PRIMARY KEY,
    user_id             uuid NOT NULL REFERENCES users (id),
    api_key_id          text REFERENCES api_keys (id),
    batch_id            uuid REFERENCES batches (id),
    retried_from        uuid REFERENCES jobs (id),
    kind                text NOT NULL CONSTRAINT jobs_kind_known
                            CHECK (kind IN ('image', 'video', 'text', 'transcription', 'speech', 'music')),
    model               text NOT NULL,
    tier                text NOT NULL CONSTRAINT jobs_tier_known CHECK (tier IN ('pro', 'starter', 'free', 'batch')),
    state               text NOT NULL CONSTRAINT jobs_state_known CHECK (state IN
                            ('created', 'queued', 'running', 'completed', 'failed', 'cancelled', 'expired')),
    input               jsonb NOT NULL,
    metadata            jsonb NOT NULL DEFAULT '{}',
    output              jsonb,
    error               jsonb,
    day                 date NOT NULL, -- the UTC day whose quota holds it
    cost_mt             bigint NOT NULL CONSTRAINT jobs_cost_positive CHECK (cost_mt > 0),
    charged_mt          bigint CONSTRAINT jobs_charge_within_hold CHECK (charged_mt BETWEEN 0 AND cost_mt),
    attempt             integer NOT NULL DEFAULT 0, -- rises at each claim and never falls: the fence
    failures            integer NOT NULL DEFAULT 0, -- the retry budget
    worker              text,
    lease_expires_at    timestamptz,
    not_before          timestamptz,
    deadline            timestamptz,
    cancel_requested_at timestamptz,
    last_job_seq        integer NOT NULL DEFAULT 0,
    webhook             jsonb,
    delivery            jsonb,
    request_id          text NOT NULL DEFAULT '',
    created_at          timestamptz NOT NULL,
    queued_at           timestamptz,
    started_at          timestamptz,
    finished_at         timestamptz,
    moderation          jsonb, -- {flagged, spoiler, age_restricted, withheld, rules}; NULL for the ordinary one
    CONSTRAINT jobs_running_is_leased CHECK ((state = 'running') = (lease_expires_at IS NOT NULL AND worker IS NOT NULL)),
    CONSTRAINT jobs_final_is_finished CHECK
        ((state IN ('completed', 'failed', 'cancelled', 'expired')) = (finished_at IS NOT NULL)),
    CONSTRAINT jobs_final_is_charged CHECK ((finished_at IS NULL) = (charged_mt IS NULL)),
    CONSTRAINT jobs_failed_says_why CHECK ((state = 'failed') <= (error IS NOT NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
CREATE INDEX jobs_queued ON jobs (tier, queued_at) WHERE state = 'queued';
CREATE INDEX jobs_due ON jobs (not_before) WHERE state = 'created';
CREATE INDEX jobs_deadline ON jobs (deadline) WHERE deadline IS NOT NULL AND state IN ('created', 'queued');
CREATE INDEX jobs_lease ON jobs (lease_expires_at) WHERE state = 'running';
CREATE INDEX jobs_user ON jobs (user_id, id DESC);
CREATE INDEX jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX jobs_batch ON jobs (batch_id) WHERE batch_id IS NOT NULL;
CREATE INDEX jobs_batch_live ON jobs (batch_id) WHERE batch_id IS NOT NULL AND finished_at IS NULL;
CREATE INDEX jobs_retried_from ON jobs (retried_from) WHERE retried_from IS NOT NULL;

-- One run of a job.
CREATE TABLE attempts (
    job_id      uuid NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    attempt     integer NOT NULL,
    worker      text NOT NULL,
    started_at  timestamptz NOT NULL,
    finished_at timestamptz,
    outcome     text CONSTRAINT attempts_outcome_known CHECK (outcome IN ('completed', 'failed', 'cancelled', 'requeued')),
    error       jsonb,
    PRIMARY KEY (job_id, attempt)
);
CREATE INDEX attempts_finished ON attempts (finished_at) WHERE finished_at IS NOT NULL;

-- An output file. The bytes are in the artifact store under their hash; access goes through this row.
CREATE TABLE artifacts (
    id               uuid PRIMARY KEY,
    job_id           uuid NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    user_id          uuid NOT NULL REFERENCES users (id),
    index            integer NOT NULL,
    sha256           text NOT NULL,
    media_type       text NOT NULL,
    bytes            bigint NOT NULL,
    width            integer,
    height           integer,
    duration_s       double precision,
    thumbnail_sha256 text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    deleted_at       timestamptz,
    withheld_at      timestamptz, -- by an operator, after a report
    CONSTRAINT artifacts_job_index UNIQUE (job_id, index)
);
CREATE INDEX artifacts_user ON artifacts (user_id, created_at DESC);
CREATE INDEX artifacts_user_id ON artifacts (user_id, id DESC);
CREATE INDEX artifacts_sha256 ON artifacts (sha256);
CREATE INDEX artifacts_thumbnail ON artifacts (thumbnail_sha256) WHERE thumbnail_sha256 IS NOT NULL;

-- Videos that their users have deleted in OpenAI's shape: no longer listed there. The job itself stays.
CREATE TABLE deleted_videos (
    job_id     uuid PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    deleted_at timestamptz NOT NULL DEFAULT now()
);

-- Append-only. amount_mt is what the entry adds to the day's use: a hold adds, refunds and grants take away.
CREATE TABLE token_ledger (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES users (id),
    day        date NOT NULL,
    kind       text NOT NULL, -- of the job; 'account' for what belongs to no job
    entry      text NOT NULL CONSTRAINT token_ledger_entry_known
                   CHECK (entry IN ('hold', 'settlement', 'refund', 'grant', 'adjustment')),
    amount_mt  bigint NOT NULL,
    job_id     uuid, -- kept when the job's row is pruned
    reason     text NOT NULL DEFAULT '',
    actor      text NOT NULL DEFAULT 'system',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT token_ledger_sign CHECK (
        CASE entry WHEN 'hold' THEN amount_mt > 0 WHEN 'settlement' THEN amount_mt <= 0
                   WHEN 'refund' THEN amount_mt < 0 WHEN 'grant' THEN amount_mt < 0 ELSE true END)
);
CREATE UNIQUE INDEX token_ledger_once ON token_ledger (job_id, entry) WHERE entry IN ('hold', 'settlement', 'refund');
CREATE INDEX token_ledger_user_day ON token_ledger (user_id, day);
CREATE INDEX token_ledger_user ON token_ledger (user_id, id);
CREATE INDEX token_ledger_job_grant ON token_ledger (job_id) WHERE entry = 'grant' AND job_id IS NOT NULL;

-- The projection of the ledger, kept in the same transactions, rebuilt and compared by maintenance.
CREATE TABLE usage_daily (
    user_id uuid NOT NULL REFERENCES users (id),
    day     date NOT NULL,
    kind    text NOT NULL,
    used_mt bigint NOT NULL DEFAULT 0,
    jobs    integer NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, day, kind)
) WITH (fillfactor = 50);
CREATE INDEX usage_daily_day ON usage_daily (day);

-- What happened, in the order of commit: seq is drawn under the advisory lock FEED, last in its transaction. job_seq is
-- gap-free per job and NULL for what only the scheduler reads.
CREATE TABLE job_events (
    seq        bigint PRIMARY KEY,
    job_id     uuid NOT NULL,
    job_seq    integer,
    user_id    uuid NOT NULL,
    type       text NOT NULL CONSTRAINT job_events_type_known CHECK (type IN ('created', 'queued', 'started', 'output',
                   'completed', 'failed', 'cancelled', 'expired', 'cancel_requested', 'plan_changed', 'owner_changed')),
    attempt    integer NOT NULL DEFAULT 0,
    data       jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT job_events_job_seq UNIQUE (job_id, job_seq)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.05);
CREATE INDEX job_events_user ON job_events (user_id, seq);
CREATE SEQUENCE job_events_seq AS bigint OWNED BY job_events.seq;

-- The first answer to an Idempotency-Key, for 24 hours.
CREATE TABLE idempotency_keys (
    user_id     uuid NOT NULL REFERENCES users (id),
    key         text NOT NULL,
    body_sha256 bytea NOT NULL,
    job_id      uuid NOT NULL,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (user_id, key)
);
CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at);

-- Where a user wants the events of all of the user's jobs. Signed by `secret`, and by `old_secret` too until its time is
-- over. A deleted one stays for its log.
CREATE TABLE webhook_endpoints (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES users (id),
    url        text NOT NULL,
    secret     bytea NOT NULL,
    old_secret bytea,
    events     text[] NOT NULL DEFAULT '{completed,failed,cancelled,expired}',
    created_at timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz,
    description text NOT NULL DEFAULT '',
    old_secret_until timestamptz,
    disabled_reason text,
    deleted_at timestamptz,
    failed_in_a_row integer NOT NULL DEFAULT 0 -- deliveries that were given up after the last one that arrived
);
CREATE INDEX webhook_endpoints_user ON webhook_endpoints (user_id, created_at DESC) WHERE deleted_at IS NULL;
CREATE INDEX webhook_endpoints_live ON webhook_endpoints (user_id) WHERE disabled_at IS NULL AND deleted_at IS NULL;

-- What signs the webhooks that a job itself names. Made at the first use.
CREATE TABLE webhook_secrets (
    user_id          uuid PRIMARY KEY REFERENCES users (id),
    secret           bytea NOT NULL,
    old_secret       bytea,
    old_secret_until timestamptz
);

-- Bringing an event to a webhook or a chat: an outbox, written in the transaction of the event. `target` is the lane: one
-- webhook endpoint, one user's webhooks of jobs at one server, or one chat. A chat's are brought one after the other.
CREATE TABLE deliveries (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    seq          bigint GENERATED ALWAYS AS IDENTITY, -- drawn under FEED: its order is that of the events
    channel      text NOT NULL CONSTRAINT deliveries_channel_known CHECK (channel IN ('webhook', 'chat')),
    target       text NOT NULL,
    bot          text, -- of a chat: platform:name
    endpoint_id  uuid, -- of a webhook of the account
    url          text, -- of a webhook that the job names
    user_id      uuid NOT NULL REFERENCES users (id),
    job_id       uuid, -- NULL: a test of an endpoint
    job_seq      integer,
    event_seq    bigint,
    event        text NOT NULL,
    state        text NOT NULL DEFAULT 'pending' CONSTRAINT deliveries_state_known
                     CHECK (state IN ('pending', 'leased', 'delivered', 'failed')),
    tries        integer NOT NULL DEFAULT 0,
    first_try_at timestamptz,
    next_try_at  timestamptz NOT NULL DEFAULT now(), -- of a leased one: when its lease is over
    lease_token  uuid, -- fences who brings it
    last_error   text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    ended_at     timestamptz,
    CONSTRAINT deliveries_once UNIQUE (event_seq, channel, target),
    CONSTRAINT deliveries_leased_has_token CHECK ((state = 'leased') = (lease_token IS NOT NULL)),
    CONSTRAINT deliveries_ended CHECK ((state IN ('delivered', 'failed')) = (ended_at IS NOT NULL)),
    CONSTRAINT deliveries_chat_has_bot CHECK ((channel = 'chat') = (bot IS NOT NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX deliveries_open_webhooks ON deliveries (target, next_try_at) WHERE channel = 'webhook' AND ended_at IS NULL;
CREATE INDEX deliveries_open_chats ON deliveries (bot, target, seq) WHERE channel = 'chat' AND ended_at IS NULL;
CREATE INDEX deliveries_user ON deliveries (user_id, seq DESC);
CREATE INDEX deliveries_endpoint ON deliveries (endpoint_id, seq DESC) WHERE endpoint_id IS NOT NULL;
CREATE INDEX deliveries_job ON deliveries (job_id) WHERE job_id IS NOT NULL;
CREATE INDEX deliveries_failed ON deliveries (seq DESC) WHERE state = 'failed';
CREATE INDEX deliveries_ended ON deliveries (ended_at) WHERE ended_at IS NOT NULL;

-- One try of a delivery, as its log shows it.
CREATE TABLE delivery_tries (
    delivery_id uuid NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
    number      integer NOT NULL,
    at          timestamptz NOT NULL,
    status      integer, -- NULL: there was no answer
    ms          integer,
    error       text,
    answer      text, -- its first bytes
    PRIMARY KEY (delivery_id, number)
);

-- While this row is there nothing is delivered: an operator's will, and what a restore from a backup begins with.
CREATE TABLE deliveries_pause (
    singleton  boolean PRIMARY KEY DEFAULT true CONSTRAINT deliveries_pause_one_row CHECK (singleton),
    reason     text NOT NULL DEFAULT '',
    actor      text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- What a platform has sent to a bot, stored before it is acknowledged there. One lane's are given out in order.
CREATE TABLE inbox (
    bot         text NOT NULL,
    update_id   text NOT NULL,
    seq         bigint GENERATED ALWAYS AS IDENTITY,
    lane        text NOT NULL,
    data        jsonb NOT NULL,
    state       text NOT NULL DEFAULT 'pending' CONSTRAINT inbox_state_known
                    CHECK (state IN ('pending', 'leased', 'done', 'failed')),
    tries       integer NOT NULL DEFAULT 0,
    next_try_at timestamptz NOT NULL DEFAULT now(),
    lease_token uuid,
    last_error  text,
    received_at timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz,
    PRIMARY KEY (bot, update_id),
    CONSTRAINT inbox_leased_has_token CHECK ((state = 'leased') = (lease_token IS NOT NULL)),
    CONSTRAINT inbox_ended CHECK ((state IN ('done', 'failed')) = (ended_at IS NOT NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX inbox_open ON inbox (bot, lane, seq) WHERE ended_at IS NULL;
CREATE INDEX inbox_ended_at ON inbox (ended_at) WHERE ended_at IS NOT NULL;

-- What operators look for in prompts; see tessera/moderation/screening.py. What is refused always is in no table.
CREATE TABLE moderation_rules (
    id             uuid PRIMARY KEY,
    match          text NOT NULL CONSTRAINT moderation_rules_match_known CHECK (match IN ('words', 'pattern')),
    text           text NOT NULL CONSTRAINT moderation_rules_text_length CHECK (length(text) BETWEEN 1 AND 500),
    action         text NOT NULL CONSTRAINT moderation_rules_action_known CHECK (action IN ('block', 'flag', 'spoiler')),
    age_restricted boolean NOT NULL DEFAULT false, -- refuses where such content is not allowed, else does its action
    kinds          text[] NOT NULL DEFAULT '{}', -- of which jobs; empty: of all
    note           text NOT NULL DEFAULT '',
    actor          text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    changed_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT moderation_rules_once UNIQUE (match, text)
);

-- What every ingress replica looks at each second: the version of the rules, the banner that everybody is shown,
-- and which key signs links to files (share_generation; the one before it is good until share_before_until).
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

-- Somebody says that a job or a file should not be there, or a rule has flagged a job (reporter_id NULL). An operator
-- upholds it, which withholds the files, or dismisses it.
CREATE TABLE moderation_reports (
    id          uuid PRIMARY KEY,
    job_id      uuid,
    artifact_id uuid,
    reporter_id uuid REFERENCES users (id),
    reason      text NOT NULL,
    state       text NOT NULL DEFAULT 'open' CONSTRAINT moderation_reports_state_known
                    CHECK (state IN ('open', 'upheld', 'dismissed')),
    created_at  timestamptz NOT NULL DEFAULT now(),
    reviewed_at timestamptz,
    owner_id    uuid REFERENCES users (id), -- whose job it is
    category    text NOT NULL DEFAULT 'other' CONSTRAINT moderation_reports_category_known CHECK
                    (category IN ('sexual_minors', 'nonconsensual_intimate', 'violence', 'hate', 'illegal', 'copyright', 'privacy',
                                  'spam', 'flagged', 'other')),
    reviewed_by text,
    note        text NOT NULL DEFAULT '', -- of the operator
    refunded_mt bigint NOT NULL DEFAULT 0,
    CONSTRAINT moderation_reports_reviewed CHECK ((state = 'open') = (reviewed_at IS NULL))
);
CREATE INDEX moderation_reports_open ON moderation_reports (created_at) WHERE state = 'open';
CREATE UNIQUE INDEX moderation_reports_open_once ON moderation_reports (reporter_id, coalesce(artifact_id, job_id))
    WHERE state = 'open' AND reporter_id IS NOT NULL;
CREATE INDEX moderation_reports_job ON moderation_reports (job_id);

-- The first answer to an operator's act that carried an Idempotency-Key, for 24 hours.
CREATE TABLE operator_answers (
    user_id     uuid NOT NULL REFERENCES users (id),
    key         text NOT NULL,
    body_sha256 bytea NOT NULL,
    answer      jsonb,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, key)
);
CREATE INDEX operator_answers_created ON operator_answers (created_at);

-- Every act of an operator.
CREATE TABLE audit_log (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    actor      text NOT NULL,
    action     text NOT NULL,
    subject    text NOT NULL,
    data       jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX audit_log_subject ON audit_log (subject, created_at DESC);

-- What takes no new jobs for a while, by an operator's will: a worker, or a node with all its workers.
CREATE TABLE drains (
    target     text PRIMARY KEY,
    kind       text NOT NULL CONSTRAINT drains_kind_known CHECK (kind IN ('worker', 'node')),
    until      timestamptz NOT NULL,
    actor      text NOT NULL,
    reason     text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now()
);

-- A model that an operator keeps off a worker, until a time.
CREATE TABLE exclusions (
    worker     text NOT NULL,
    model      text NOT NULL,
    until      timestamptz NOT NULL,
    reason     text NOT NULL DEFAULT '', -- for the people who wait
    actor      text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (worker, model)
);

-- Kinds of which no job is started, by an operator's will. Submissions are taken; jobs that run go on.
CREATE TABLE queue_pauses (
    kind       text PRIMARY KEY CONSTRAINT queue_pauses_kind_known
                   CHECK (kind IN ('image', 'video', 'text', 'transcription', 'speech', 'music')),
    message    text NOT NULL DEFAULT '', -- for the people who wait
    actor      text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- What the admin of a group or a server allows a bot ("telegram:painter") there.
CREATE TABLE chat_rules (
    bot        text NOT NULL,
    chat       text NOT NULL, -- the group or server, by the platform's id
    rules      jsonb NOT NULL CONSTRAINT chat_rules_object CHECK (jsonb_typeof(rules) = 'object'),
    changed_by text NOT NULL, -- an identity, telegram:123
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (bot, chat)
);

-- How far ahead a user's requests other than submissions have used up their rate (GCRA's theoretical arrival time).
-- Not logged: after a crash everybody begins with a whole minute again, and no request waits for the disk.
CREATE UNLOGGED TABLE request_rates (
    user_id uuid PRIMARY KEY,
    tat     timestamptz NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX request_rates_tat ON request_rates (tat);

-- One scheduler leads. Becoming leader raises the epoch; every transaction of a scheduler first reads its own FOR SHARE.
CREATE TABLE leader (
    singleton   boolean PRIMARY KEY DEFAULT true CONSTRAINT leader_one_row CHECK (singleton),
    epoch       bigint NOT NULL DEFAULT 0,
    holder      text NOT NULL DEFAULT '',
    acquired_at timestamptz
);
INSERT INTO leader (singleton) VALUES (true);

-- Whether the service was up, a row a minute, for the uptime report.
CREATE TABLE uptime_minutes (
    minute timestamptz PRIMARY KEY,
    ok     boolean NOT NULL
);
