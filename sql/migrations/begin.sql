-- What every migration run starts with, in its transaction: never wait long for a lock, never run twice at once.
SELECT set_config('lock_timeout', '5s', true), pg_advisory_xact_lock(7040)
