"""The chaos suite: a platform under load whose parts are killed, and what must hold afterwards (docs/chaos.md)."""
