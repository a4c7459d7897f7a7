"""Whether a prompt may be run: operators' rules, what is refused always, and texts as a person reads them. Pure."""
