-- What the admin of a group or a server allows a bot there.
CREATE TABLE chat_rules (
    bot        text NOT NULL,
    chat       text NOT NULL,
    rules      jsonb NOT NULL CONSTRAINT chat_rules_object CHECK (jsonb_typeof(rules) = 'object'),
    changed_by text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (bot, chat)
);
