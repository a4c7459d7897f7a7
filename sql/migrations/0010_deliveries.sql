-- The outbox: deliveries to webhooks and chats, their tries, the secrets that sign them, and the inbox of the bots.
-- No version before this one has written a row of deliveries or webhook_endpoints.
DROP TABLE deliveries;
CREATE TABLE deliveries (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    seq          bigint GENERATED ALWAYS AS IDENTITY,
    channel      text NOT NULL CONSTRAINT deliveries_channel_known CHECK (channel IN ('webhook', 'chat')),
    target       text NOT NULL,
    bot          text,
    endpoint_id  uuid,
    url          text,
    user_id      uuid NOT NULL REFERENCES users (id),
    job_id       uuid,
    job_seq      integer,
    event_seq    bigint,
    event        text NOT NULL,
    state        text NOT NULL DEFAULT 'pending' CONSTRAINT deliveries_state_known
                     CHECK (state IN ('pending', 'leased', 'delivered', 'failed')),
    tries        integer NOT NULL DEFAULT 0,
    first_try_at timestamptz,
    next_try_at  timestamptz NOT NULL DEFAULT now(),
    lease_token  uuid,
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

CREATE TABLE delivery_tries (
    delivery_id uuid NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
    number      integer NOT NULL,
    at          timestamptz NOT NULL,
    status      integer,
    ms          integer,
    error       text,
    answer      text,
    PRIMARY KEY (delivery_id, number)
);

CREATE TABLE deliveries_pause (
    singleton  boolean PRIMARY KEY DEFAULT true CONSTRAINT deliveries_pause_one_row CHECK (singleton),
    reason     text NOT NULL DEFAULT '',
    actor      text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE webhook_endpoints
    ADD COLUMN description text NOT NULL DEFAULT '',
    ADD COLUMN old_secret_until timestamptz,
    ADD COLUMN disabled_reason text,
    ADD COLUMN deleted_at timestamptz;
DROP INDEX webhook_endpoints_user;
CREATE INDEX webhook_endpoints_user ON webhook_endpoints (user_id, created_at DESC) WHERE deleted_at IS NULL;
CREATE INDEX webhook_endpoints_live ON webhook_endpoints (user_id) WHERE disabled_at IS NULL AND deleted_at IS NULL;

CREATE TABLE webhook_secrets (
    user_id          uuid PRIMARY KEY REFERENCES users (id),
    secret           bytea NOT NULL,
    old_secret       bytea,
    old_secret_until timestamptz
);

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
