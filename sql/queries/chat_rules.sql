-- What the admin of a chat allows a bot there.

-- name: chat_rules
-- The rules of a chat.
SELECT rules, changed_by, changed_at FROM chat_rules WHERE bot = :bot AND chat = :chat

-- name: set_chat_rules
-- Replace the rules of a chat.
INSERT INTO chat_rules (bot, chat, rules, changed_by, changed_at)
VALUES (:bot, :chat, :rules, :changed_by, now())
ON CONFLICT (bot, chat) DO UPDATE
SET rules = excluded.rules, changed_by = excluded.changed_by, changed_at = excluded.changed_at
RETURNING rules, changed_by, changed_at
