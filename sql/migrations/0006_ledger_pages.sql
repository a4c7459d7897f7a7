-- Pages of one user's ledger, the newest first: without it, by sorting all entries of the user.
CREATE INDEX token_ledger_user ON token_ledger (user_id, id);
-- The grant in place of a refund whose day is over, by its job; they are few. Hold, settlement and refund have
-- token_ledger_once.
CREATE INDEX token_ledger_job_grant ON token_ledger (job_id) WHERE entry = 'grant' AND job_id IS NOT NULL;
