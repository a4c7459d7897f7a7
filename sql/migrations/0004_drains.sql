-- What takes no new jobs for a while, by an operator's will: a worker, or a node with all its workers.
CREATE TABLE drains (
    target     text PRIMARY KEY,
    kind       text NOT NULL CONSTRAINT drains_kind_known CHECK (kind IN ('worker', 'node')),
    until      timestamptz NOT NULL,
    actor      text NOT NULL,
    reason     text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now()
);
