"""The bots: where people meet Tessera in Telegram and Discord. They know ``tessera.client`` and pure modules only."""
