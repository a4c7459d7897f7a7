-- The whole data model, as a newcomer reads it. A test builds one database from this file and one from
-- sql/migrations/ and asserts that they are the same. The functions that write jobs are in sql/functions.sql.
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
    deleted_at          timestamptz
);
CREATE UNIQUE INDEX users_live_name ON users (name) WHERE deleted_at IS NULL;

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
    CONSTRAINT identities_provider_subject UNIQUE (provider, subject)
);
CREATE INDEX identities_user ON identities (user_id);

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
    revoked_at    timestamptz
);
CREATE INDEX api_keys_user ON api_keys (user_id);

-- What the jobs of a key hold or were charged of a day, for its daily cap. Guarded by the lock of its user's user_state.
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

CREATE TABLE batches (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES users (id),
    state      text NOT NULL CONSTRAINT batches_state_known
                   CHECK (state IN ('expanding', 'paused', 'running', 'completed', 'cancelled', 'failed')),
    input      uuid,
    counts     jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz
);
CREATE INDEX batches_user ON batches (user_id, created_at DESC);

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
    CONSTRAINT artifacts_job_index UNIQUE (job_id, index)
);
CREATE INDEX artifacts_user ON artifacts (user_id, created_at DESC);
CREATE INDEX artifacts_sha256 ON artifacts (sha256);
CREATE INDEX artifacts_thumbnail ON artifacts (thumbnail_sha256) WHERE thumbnail_sha256 IS NOT NULL;

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
                   'completed', 'failed', 'cancelled', 'expired', 'cancel_requested', 'plan_changed')),
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

CREATE TABLE webhook_endpoints (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES users (id),
    url        text NOT NULL,
    secret     bytea NOT NULL,
    old_secret bytea,
    events     text[] NOT NULL DEFAULT '{completed,failed,cancelled,expired}',
    created_at timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz
);
CREATE INDEX webhook_endpoints_user ON webhook_endpoints (user_id);

-- Bringing an event to a webhook or a chat: an outbox, written in the transaction of the event.
CREATE TABLE deliveries (
    id               uuid PRIMARY KEY,
    event_seq        bigint NOT NULL,
    job_id           uuid NOT NULL,
    user_id          uuid NOT NULL REFERENCES users (id),
    channel          text NOT NULL CONSTRAINT deliveries_channel_known CHECK (channel IN ('webhook', 'telegram', 'discord')),
    target           text NOT NULL,
    state            text NOT NULL DEFAULT 'pending' CONSTRAINT deliveries_state_known
                         CHECK (state IN ('pending', 'leased', 'delivered', 'failed')),
    tries            integer NOT NULL DEFAULT 0,
    next_try_at      timestamptz NOT NULL DEFAULT now(),
    lease_expires_at timestamptz,
    last_error       text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    delivered_at     timestamptz,
    CONSTRAINT deliveries_once UNIQUE (event_seq, channel, target)
);
CREATE INDEX deliveries_due ON deliveries (next_try_at) WHERE state IN ('pending', 'leased');

CREATE TABLE moderation_reports (
    id          uuid PRIMARY KEY,
    job_id      uuid,
    artifact_id uuid,
    reporter_id uuid REFERENCES users (id),
    reason      text NOT NULL,
    state       text NOT NULL DEFAULT 'open' CONSTRAINT moderation_reports_state_known
                    CHECK (state IN ('open', 'upheld', 'dismissed')),
    created_at  timestamptz NOT NULL DEFAULT now(),
    reviewed_at timestamptz
);
CREATE INDEX moderation_reports_open ON moderation_reports (created_at) WHERE state = 'open';

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

-- Kinds of which no job is started, by an operator's will. Submissions are taken; jobs that run go on.
CREATE TABLE queue_pauses (
    kind       text PRIMARY KEY CONSTRAINT queue_pauses_kind_known
                   CHECK (kind IN ('image', 'video', 'text', 'transcription', 'speech', 'music')),
    message    text NOT NULL DEFAULT '', -- for the people who wait
    actor      text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

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
