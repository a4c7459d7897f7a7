"""The inputs of the six kinds: their fields, limits and defaults.

The one definition that the API validates by, engines read, and JSON Schemas are made from. Limits here are those of
the product; a plan's smaller ones are asked in ``plans.py``. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from tessera.errors import InvalidInput
from tessera.jobs import Kind

MAX_PROMPT_CHARS = 20_000  # (start) far above what image models read
MAX_LYRICS_CHARS = 5_000  # (start) about four minutes, the longest that ACE-Step makes
MAX_TEXT_CHARS = 400_000  # (start) about 100,000 text tokens at 4 characters each


def _no_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("contains a NUL character, which cannot be stored: remove it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("contains a lone surrogate, which is not a character: remove it") from None
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty: say what is wanted")
    return text


Text = Annotated[str, AfterValidator(_no_nul)]
Prompt = Annotated[Text, Field(min_length=1, max_length=MAX_PROMPT_CHARS), AfterValidator(_not_blank)]
LongText = Annotated[Text, Field(min_length=1, max_length=MAX_TEXT_CHARS), AfterValidator(_not_blank)]
Seed = Annotated[int, Field(ge=0, lt=2**53, description="the same seed and input give the same result")]
FileId = Annotated[str, Field(max_length=64, description="the id of an upload or of an artifact")]


class Input(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ImageInput(Input):
    """A picture from words; with ``image`` from a picture, with ``mask`` in a part of it, with ``scale`` larger."""

    prompt: Annotated[Text, Field(max_length=MAX_PROMPT_CHARS)] = ""
    negative_prompt: Annotated[Text, Field(max_length=MAX_PROMPT_CHARS)] = ""
    width: int = Field(1024, ge=16, le=4096, description="pixels")
    height: int = Field(1024, ge=16, le=4096, description="pixels")
    count: int = Field(1, ge=1, le=8)
    seed: Seed | None = None
    image: FileId | None = None
    mask: FileId | None = None
    strength: float | None = Field(
        None, ge=0, le=1, description="how much of `image` may change: 0 nothing, 1 all; 0.6 unless said"
    )
    scale: float | None = Field(None, ge=1, le=4, description="with `image`: enlarge it by this factor")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.scale is None and not self.prompt.strip():
            raise ValueError("'prompt' is missing: say what the picture should show")
        for name in ("mask", "strength", "scale"):
            if getattr(self, name) is not None and self.image is None:
                raise ValueError(f"'{name}' needs 'image': upload one with POST /v1/uploads")
        if self.scale is not None and self.mask is not None:
            raise ValueError("'scale' and 'mask' cannot be used together: enlarge first, then change a part")
        return self


class VideoInput(Input):
    """A clip from words, or from a picture and words."""

    prompt: Prompt
    image: FileId | None = None
    width: int = Field(512, ge=64, le=1920, multiple_of=2, description="pixels, an even number (H.264 needs it)")
    height: int = Field(512, ge=64, le=1920, multiple_of=2, description="pixels, an even number (H.264 needs it)")
    duration_s: float = Field(2.0, ge=0.25, le=16)
    fps: int = Field(12, ge=1, le=30)
    seed: Seed | None = None

    @property
    def frames(self) -> int:
        """Frames of the clip, at least 1."""
        return max(1, round(self.duration_s * self.fps))


class Message(Input):
    role: Literal["system", "user", "assistant"]
    content: Annotated[Text, Field(max_length=MAX_TEXT_CHARS)]


class TextInput(Input):
    """An answer, from a prompt or from the messages of a chat."""

    prompt: LongText | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)] | None = None
    max_tokens: int = Field(256, ge=1, le=8192, description="the most text tokens to generate")
    temperature: float = Field(0.7, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1, description="choose among the likeliest that make up this share; 1: all")
    seed: Seed | None = None
    stop: Annotated[list[Annotated[Text, Field(min_length=1, max_length=200)]], Field(max_length=8)] = []

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either 'prompt' or 'messages'")
        if self.messages is not None and sum(len(m.content) for m in self.messages) > MAX_TEXT_CHARS:
            raise ValueError(f"'messages' are longer than {MAX_TEXT_CHARS} characters: shorten the chat")
        return self


class TranscriptionInput(Input):
    """The words of a recording."""

    upload: FileId
    language: (
        Annotated[str, Field(pattern=r"^[a-z]{2,3}$", description="ISO 639 code; found out unless said")] | None
    ) = None
    translate: bool = Field(False, description="into English")
    prompt: Annotated[Text, Field(max_length=2000, description="words to expect; not every model reads it")] = ""
    temperature: float = Field(0.0, ge=0, le=1, description="0: the likeliest words")
    word_timestamps: bool = Field(False, description="also when each word is said: `words` of the output")
    formats: Annotated[list[Literal["srt", "vtt", "json", "txt"]], Field(max_length=4)] = Field(
        [], description="also as files: subtitles, the whole output, plain text"
    )


class SpeechInput(Input):
    """Words, spoken."""

    text: Annotated[LongText, Field(max_length=20_000)]
    voice: Annotated[str, Field(max_length=64)] = "en"
    speed: float = Field(1.0, ge=0.25, le=4)
    format: Literal["wav", "mp3", "opus"] = "wav"


class MusicInput(Input):
    """Music from words; a song, with ``lyrics`` and a model that sings."""

    prompt: Prompt
    lyrics: Annotated[
        Text, Field(max_length=MAX_LYRICS_CHARS, description="what is sung; not every model can, and says so")
    ] = ""
    duration_s: float = Field(10.0, ge=1, le=300)
    seed: Seed | None = None


AnyInput = ImageInput | VideoInput | TextInput | TranscriptionInput | SpeechInput | MusicInput

INPUTS: dict[Kind, type[AnyInput]] = {
    Kind.IMAGE: ImageInput,
    Kind.VIDEO: VideoInput,
    Kind.TEXT: TextInput,
    Kind.TRANSCRIPTION: TranscriptionInput,
    Kind.SPEECH: SpeechInput,
    Kind.MUSIC: MusicInput,
}

FILE_FIELDS = ("image", "mask", "upload")


def parse_input(kind: Kind, data: Mapping[str, Any]) -> AnyInput:
    """Validate the input of a job of this kind.

    Raises InvalidInput with one sentence naming the field, and ``errors=[{field, message}]`` in its details.
    """
    try:
        return INPUTS[kind].model_validate(data)
    except ValidationError as error:
        problems = [_problem(kind, e) for e in error.errors(include_url=False, include_input=False)]
        text = "; ".join(f"{p['field']}: {p['message']}" for p in problems[:5])
        raise InvalidInput(f"Nothing was submitted or charged. {text}", errors=problems) from None


def _problem(kind: Kind, error: Any) -> dict[str, str]:
    field = ".".join(["input", *(str(part) for part in error["loc"])])
    if error["type"] == "extra_forbidden":
        known = ", ".join(INPUTS[kind].model_fields)
        return {"field": field, "message": f"unknown field; the input of kind {kind.value} takes {known}"}
    if error["type"] == "missing":
        return {"field": field, "message": "is missing"}
    return {"field": field, "message": error["msg"].removeprefix("Value error, ")}
