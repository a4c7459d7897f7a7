"""The HTTP API: authenticate, validate, price, admit; read from Postgres; stream events. It never schedules."""
