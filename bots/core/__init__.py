"""What a bot says and does, whatever the platform: no module of this package knows Telegram or Discord."""
