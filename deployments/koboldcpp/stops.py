"""Stop sequences: a text that arrives in pieces ends before the first of them, however the pieces cut it. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Holds back what may be the beginning of a stop sequence until it is known to be one, or not.

    KoboldCPP stops by itself too, but says ``length`` when it did and trims by token: only who sees the sequence
    knows that it was reached, and where the text before it ends.
    """

    def __init__(self, sequences: Sequence[str]) -> None:
        self._sequences = tuple(sequence for sequence in sequences if sequence)
        self._longest = max(map(len, self._sequences), default=0)
        self._held = ""
        self.stopped = False  # a sequence was reached: nothing comes out any more

    def feed(self, text: str) -> str:
        """Take the next piece; gives what can be shown of it and of what was held back."""
        if self.stopped:
            return ""
        self._held += text
        found = [(at + len(each), at) for each in self._sequences if (at := self._held.find(each)) >= 0]
        if found:  # the one that was complete first ends the text
            shown, self._held, self.stopped = self._held[: min(found)[1]], "", True
            return shown
        keep = self._beginning()
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def rest(self) -> str:
        """The text is over: what was held back was no stop sequence."""
        shown, self._held = self._held, ""
        return shown

    def _beginning(self) -> int:
        """How many characters at the end may be the beginning of a sequence."""
        for length in range(min(len(self._held), self._longest - 1), 0, -1):
            tail = self._held[-length:]
            if any(sequence.startswith(tail) for sequence in self._sequences):
                return length
        return 0
