"""What an aligner is given: a recording and its transcript."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indattn.data.speech.features import FRAME, RATE

__all__ = ["Example"]


@dataclass(frozen=True)
class Example:
    """A recording and its transcript.

    Attributes:
        name: for messages.
        frames: ``(frames, 80)`` uint8, of :func:`~indattn.data.speech.features.log_mel`.
        words: as they are written.
        phones: of each word in IPA, at least one.
        samples: ``(samples,)`` int16 at 16 kHz, where an aligner needs them.
        language: of the words, as espeak-ng calls it (``en-us``, ``fr``).
    """

    name: str
    frames: NDArray[np.uint8]
    words: tuple[str, ...]
    phones: tuple[tuple[str, ...], ...]
    samples: NDArray[np.int16] | None = None
    language: str = "en-us"

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return len(self.frames) * FRAME if self.samples is None else len(self.samples) / RATE
