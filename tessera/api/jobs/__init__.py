"""Jobs: submitted, quoted, looked at, explained, cancelled."""
