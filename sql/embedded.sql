-- Run by psql as the superuser after each start of the embedded Postgres: the platform's role and database.
-- The role owns its database and nothing else. Safe to repeat; the password comes from the environment, never from
-- an argument that other users could see.
\set ON_ERROR_STOP on
\getenv app_password TESSERA_APP_PASSWORD
SET password_encryption = 'scram-sha-256';

SELECT 'CREATE ROLE tessera' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tessera') \gexec
ALTER ROLE tessera LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'app_password';

-- A transaction left open holds locks that admission needs, so it ends by itself. Maintenance raises these for itself.
ALTER ROLE tessera SET statement_timeout = '30s';
ALTER ROLE tessera SET idle_in_transaction_session_timeout = '30s';
ALTER ROLE tessera SET timezone = 'UTC';

SELECT 'CREATE DATABASE tessera OWNER tessera' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'tessera') \gexec
REVOKE ALL ON DATABASE tessera FROM PUBLIC;
