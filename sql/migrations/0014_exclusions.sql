-- A model that an operator keeps off a worker, until a time.
CREATE TABLE exclusions (
    worker     text NOT NULL,
    model      text NOT NULL,
    until      timestamptz NOT NULL,
    reason     text NOT NULL DEFAULT '',
    actor      text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (worker, model)
);
