"""A user's own account: keys, ledger, identities, settings, an end."""
