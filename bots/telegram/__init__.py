"""The Telegram side of the bots, on aiogram's Bot: https://docs.aiogram.dev/"""
