-- Kinds of which no job is started, by an operator's will. Submissions are taken; jobs that run go on.
CREATE TABLE queue_pauses (
    kind       text PRIMARY KEY CONSTRAINT queue_pauses_kind_known
                   CHECK (kind IN ('image', 'video', 'text', 'transcription', 'speech', 'music')),
    message    text NOT NULL DEFAULT '', -- for the people who wait
    actor      text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
