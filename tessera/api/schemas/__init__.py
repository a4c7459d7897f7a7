"""What the API says of its answers and bodies: models for OpenAPI only; the answers are built as plain dicts."""
