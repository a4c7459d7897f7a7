"""What a job costs, from its parameters alone, and what is given back when it does not end well. Pure integers.

1 token = one 1024×1024 image, kept as 1000 millitokens (mt); every price is rounded up to 1 mt.
"""

from __future__ import annotations

from math import ceil

from tessera.inputs import AnyInput, ImageInput, MusicInput, SpeechInput, TextInput, TranscriptionInput, VideoInput
from tessera.plans import MT_PER_TOKEN

IMAGE_PX = 1024 * 1024  # pixels for 1 token
VIDEO_FRAMES = 8  # frames of that area for 1 token
TEXT_TOKENS = 2000  # a language model's tokens for 1 token
TRANSCRIPTION_S = 300  # seconds of audio for 1 token
SPEECH_CHARS = 1000
MUSIC_S = 30

CHAT_TEMPLATE_TOKENS = 16  # an upper bound of what a chat template adds to one message


def _up(amount: int, per: int) -> int:
    """``amount / per`` tokens in mt, rounded up, at least 1 mt."""
    return max(1, -(-amount * MT_PER_TOKEN // per))


def price_mt(data: AnyInput, *, audio_s: float | None = None, source_px: int | None = None) -> int:
    """The exact price of an input in millitokens; for text an upper bound, settled by ``text_mt``.

    audio_s: seconds of the uploaded recording (transcription), as measured at its upload.
    source_px: area of the picture to enlarge (image with ``scale``), in pixels.
    """
    match data:
        case ImageInput(scale=float() as scale) if source_px is not None:
            return _up(ceil(source_px * scale * scale), IMAGE_PX) * data.count
        case ImageInput():
            return _up(data.width * data.height, IMAGE_PX) * data.count
        case VideoInput():
            return _up(data.width * data.height * data.frames, IMAGE_PX * VIDEO_FRAMES)
        case TextInput():
            return text_mt(prompt_tokens_bound(data) + data.max_tokens)
        case TranscriptionInput():
            return _up(ceil((audio_s or 0) * 1000), TRANSCRIPTION_S * 1000)
        case SpeechInput():
            return _up(len(data.text), SPEECH_CHARS)
        case MusicInput():
            return _up(ceil(data.duration_s * 1000), MUSIC_S * 1000)


def text_mt(text_tokens: int) -> int:
    """The price of so many text tokens, prompt and completion together."""
    return _up(text_tokens, TEXT_TOKENS)


def prompt_tokens_bound(data: TextInput) -> int:
    """More text tokens than any tokenizer makes of this prompt: its UTF-8 bytes and what a template adds."""
    parts = [data.prompt] if data.prompt is not None else [m.content for m in data.messages or ()]
    return sum(len(part.encode()) + CHAT_TEMPLATE_TOKENS for part in parts)


def charge_for_partial_mt(cost_mt: int, *, executed: float) -> int:
    """What a job cancelled while running is charged: the executed part (0…1), rounded down, never above the hold."""
    return min(cost_mt, int(cost_mt * max(0.0, min(1.0, executed))))


def charge_for_items_mt(cost_mt: int, *, delivered: int, asked: int) -> int:
    """What a result with missing items is charged: each missing item of ``asked`` is given back."""
    return cost_mt if delivered >= asked else cost_mt * delivered // asked
