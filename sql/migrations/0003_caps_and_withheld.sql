-- The hot row counts the results that the safety rules withheld, and a key's daily cap has a counter of its own.
-- The column comes first: its lock on user_state keeps admissions out until the counter is filled.
ALTER TABLE user_state
    ADD COLUMN withheld_day date,
    ADD COLUMN withheld integer NOT NULL DEFAULT 0 CONSTRAINT user_state_withheld_not_negative CHECK (withheld >= 0);

CREATE TABLE api_key_usage (
    key_id  text NOT NULL REFERENCES api_keys (id),
    day     date NOT NULL,
    used_mt bigint NOT NULL,
    PRIMARY KEY (key_id, day)
) WITH (fillfactor = 50);

INSERT INTO api_key_usage (key_id, day, used_mt)
SELECT j.api_key_id, j.day, sum(coalesce(j.charged_mt, j.cost_mt))
FROM jobs j WHERE j.api_key_id IS NOT NULL GROUP BY j.api_key_id, j.day;
