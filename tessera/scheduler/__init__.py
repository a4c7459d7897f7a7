"""The scheduler: one leader that dispatches, claims, retries and completes. Only ``actor.py`` knows Ray."""
