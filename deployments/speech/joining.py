"""Spoken pieces joined into one sound without clicks. Pure, but for numpy.

A click is a jump between two samples. Each piece is faded in and out over some milliseconds, which no ear hears as
such; where the text only went on, the end of one and the beginning of the next are laid over each other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

FADE_S = 0.008
OVERLAP_S = 0.02
QUIET = 0.004  # of full scale: what counts as silence at the ends of a piece
LEFT_QUIET_S = 0.03  # so much of it stays, for the breath before a word


class Joiner:
    """Takes pieces and gives samples that may be written; the end of the last one is kept until it is known what
    follows."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._held = np.zeros(0, np.float32)
        self._pause_s = 0.0

    def add(self, piece: Samples, pause_s: float) -> Samples:
        """The next piece, and the silence after it. Gives what is ready."""
        piece = trimmed(piece, self._rate_hz)
        if not len(piece):
            self._pause_s = max(self._pause_s, pause_s)
            return piece
        overlap = min(round(OVERLAP_S * self._rate_hz), len(self._held), len(piece) // 2)
        if len(self._held) and self._pause_s == 0 and overlap:
            ready = [self._held[: len(self._held) - overlap], crossed(self._held[-overlap:], piece[:overlap])]
            piece = piece[overlap:]
        else:
            ready = [faded(self._held, self._rate_hz, out=True), self._silence()] if len(self._held) else []
            piece = faded(piece, self._rate_hz, out=False)
        keep = min(len(piece), round(OVERLAP_S * self._rate_hz))
        ready.append(piece[: len(piece) - keep])
        self._held, self._pause_s = piece[len(piece) - keep :], pause_s
        return np.concatenate(ready)

    def end(self) -> Samples:
        """The rest."""
        rest, self._held = faded(self._held, self._rate_hz, out=True), np.zeros(0, np.float32)
        return rest

    def _silence(self) -> Samples:
        return np.zeros(round(self._pause_s * self._rate_hz), np.float32)


def trimmed(piece: Samples, rate_hz: int) -> Samples:
    """The piece without the silence around it, but for a breath."""
    loud = np.flatnonzero(np.abs(piece) > QUIET)
    if not len(loud):
        return piece[:0]
    left = round(LEFT_QUIET_S * rate_hz)
    return piece[max(0, int(loud[0]) - left) : int(loud[-1]) + left]


def faded(piece: Samples, rate_hz: int, *, out: bool) -> Samples:
    """The piece with its beginning, or its end, going from or to nothing."""
    length = min(len(piece), round(FADE_S * rate_hz))
    if not length:
        return piece
    ramp = (0.5 - 0.5 * np.cos(np.linspace(0, np.pi, length))).astype(np.float32)
    piece = piece.copy()
    if out:
        piece[-length:] *= ramp[::-1]
    else:
        piece[:length] *= ramp
    return piece


def crossed(end: Samples, beginning: Samples) -> Samples:
    """Two pieces of the same length over each other, the one going, the other coming."""
    ramp = (0.5 - 0.5 * np.cos(np.linspace(0, np.pi, len(end)))).astype(np.float32)
    return end * (1 - ramp) + beginning * ramp


def pcm(samples: Samples) -> bytes:
    """As s16. Louder than full scale is cut, not wrapped."""
    return (np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()
