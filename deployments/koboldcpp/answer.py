"""What a stream of KoboldCPP's has brought so far: the text that may be shown, how it ended, and the server's count."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.koboldcpp.client import Piece, Usage
from deployments.koboldcpp.stops import StopFilter
from tessera.engine import Chunk, EngineEvent, Progress
from tessera.errors import BadOutput

MAX_CHARS_PER_TOKEN = 256  # the longest tokens of real vocabularies are runs of 128 spaces or dashes


class Answer:
    """The answer of one run. ``server_reason``: how the server says that it ended; None while it has not."""

    def __init__(self, *, stops: Sequence[str], max_tokens: int, prompt_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.prompt_tokens = prompt_tokens
        self.server_reason: str | None = None
        self.usage: Usage | None = None
        self._filter = StopFilter(stops)
        self._parts: list[str] = []
        self._length = 0
        self._received = 0
        self._pieces = 0

    @property
    def text(self) -> str:
        """All that was shown."""
        return "".join(self._parts)

    @property
    def stopped(self) -> bool:
        """Whether a stop sequence was reached."""
        return self._filter.stopped

    @property
    def finish_reason(self) -> str:
        """``stop``: a stop sequence or the model's own end mark; ``length``: as many tokens as were allowed."""
        return "stop" if self.stopped or self.server_reason == "stop" else "length"

    @property
    def fraction(self) -> float:
        """How much of what is allowed was generated, as far as the pieces tell: a piece is one token or several."""
        return min(0.99, self._pieces / self.max_tokens)

    def take(self, piece: Piece) -> list[EngineEvent]:
        """The events of the next piece. Raises BadOutput for more text than so many tokens can be."""
        if piece.usage is not None:
            self.usage = piece.usage
        if piece.finish_reason is not None:
            self.server_reason = piece.finish_reason
        if not piece.text:
            return []
        self._pieces += 1
        self._received += len(piece.text)
        if self._received > (self.max_tokens + 1) * MAX_CHARS_PER_TOKEN:
            raise BadOutput(
                f"KoboldCPP wrote {self._received} characters where {self.max_tokens} text tokens were asked for. "
                "The tokens are returned."
            )
        return [*self._shown(self._filter.feed(piece.text)), Progress(fraction=self.fraction, note="writing")]

    def end(self) -> list[EngineEvent]:
        """The stream is over: what was held back."""
        return self._shown(self._filter.rest())

    def _shown(self, text: str) -> list[EngineEvent]:
        # Postgres stores neither NUL nor lone surrogates; a model without training writes them.
        text = text.replace("\x00", "").encode("utf-8", "ignore").decode("utf-8")
        if not text:
            return []
        chunk = Chunk(offset=self._length, text=text)
        self._parts.append(text)
        self._length += len(text)
        return [chunk]
