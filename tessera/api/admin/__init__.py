"""What operators do, each act with a row in audit_log."""
