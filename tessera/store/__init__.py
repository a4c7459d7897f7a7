"""Everything that talks to Postgres. The SQL itself is in ``sql/``; no text of it stands in Python."""
