"""Where events go to: webhooks of developers and chats of bots."""
