-- How far ahead a user's requests other than submissions have used up their rate (GCRA's theoretical arrival time).
-- Not logged: after a crash everybody begins with a whole minute again, and no request waits for the disk.
CREATE UNLOGGED TABLE request_rates (
    user_id uuid PRIMARY KEY,
    tat     timestamptz NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX request_rates_tat ON request_rates (tat);
