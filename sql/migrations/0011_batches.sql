-- Batches: a file of lines, each of which becomes a job when there is room for it.

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

-- Nothing wrote to it so far.
ALTER TABLE batches DROP CONSTRAINT batches_state_known;
ALTER TABLE batches ADD CONSTRAINT batches_state_known CHECK (state IN ('expanding', 'paused', 'running', 'cancelling',
                                                              'completed', 'cancelled', 'expired', 'failed'));
ALTER TABLE batches ADD CONSTRAINT batches_input FOREIGN KEY (input) REFERENCES batch_files (id);
ALTER TABLE batches ALTER COLUMN input SET NOT NULL;
ALTER TABLE batches
    ADD COLUMN api_key_id text REFERENCES api_keys (id),
    ADD COLUMN shape text NOT NULL CONSTRAINT batches_shape_known CHECK (shape IN ('native', 'openai')),
    ADD COLUMN endpoint text NOT NULL DEFAULT '', -- of OpenAI's shape: what its lines ask for
    ADD COLUMN completion_window text NOT NULL,
    ADD COLUMN expires_at timestamptz NOT NULL, -- what is not done by then is given up
    ADD COLUMN metadata jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN total integer NOT NULL DEFAULT 0, -- lines that ask for something
    ADD COLUMN next_line integer NOT NULL DEFAULT 0, -- lines of the file that were read, and
    ADD COLUMN next_byte bigint NOT NULL DEFAULT 0, -- where the first that was not begins
    ADD COLUMN pause_reason text, -- why no line is expanded at the moment
    ADD COLUMN paused_until timestamptz,
    ADD COLUMN next_try_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN ends_as text NOT NULL DEFAULT 'completed'
        CONSTRAINT batches_ends_as_known CHECK (ends_as IN ('completed', 'cancelled', 'expired', 'failed')),
    ADD COLUMN cancelling_at timestamptz,
    ADD COLUMN errors jsonb NOT NULL DEFAULT '[]', -- why it failed as a whole
    ADD COLUMN output_file_id uuid REFERENCES batch_files (id),
    ADD COLUMN error_file_id uuid REFERENCES batch_files (id),
    ADD COLUMN idempotency_key text,
    ADD COLUMN body_sha256 bytea,
    ADD CONSTRAINT batches_idempotency UNIQUE (user_id, idempotency_key),
    ADD CONSTRAINT batches_ended_is_final CHECK
        ((state IN ('completed', 'cancelled', 'expired', 'failed')) = (ended_at IS NOT NULL));
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

-- Whether a batch has jobs that have not ended, whatever number have.
CREATE INDEX jobs_batch_live ON jobs (batch_id) WHERE batch_id IS NOT NULL AND finished_at IS NULL;
