"""``make demo-bots``: all bots on a whole platform, talked to by scripted people, written down as they saw it."""
