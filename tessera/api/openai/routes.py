"""All routes of OpenAI's shapes, in one place for the application."""

from __future__ import annotations

from tessera.api.openai import audio, batches, chat, completions, files, images, models, speech, videos

ROUTERS = tuple(module.router for module in (chat, completions, images, audio, speech, videos, models, files, batches))
