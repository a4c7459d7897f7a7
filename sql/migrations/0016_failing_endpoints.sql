-- How many deliveries of an endpoint in a row were given up: too many, and it is disabled.
ALTER TABLE webhook_endpoints ADD COLUMN failed_in_a_row integer NOT NULL DEFAULT 0;
