"""A picture of a recording and where its words are: waveform, spectrogram, words with their confidences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from indattn.alignment.align import AlignedWord
from indattn.data.speech.features import FRAME, RATE, decibels, log_mel
from indattn.figures import LINES
from indattn.runs import atomic

__all__ = ["draw"]

ROW = 6.0
"""Seconds of a row, at most."""

ROWS = 20
"""Rows of a picture: of a longer recording it shows the beginning."""

LOWEST, HIGHEST = 20.0, 8000.0
"""Hertz of the filter bank's ends (:func:`~indattn.data.speech.features.log_mel`)."""

RANGE = 60.0
"""Decibels below the loudest that are told apart."""

COLOURS = plt.get_cmap("viridis")


def draw(path: Path, samples: NDArray[np.float32], words: Sequence[AlignedWord], title: str) -> None:
    """Write the picture, as its suffix says, in rows of up to 6 s: two minutes at most.

    Args:
        path: the file.
        samples: ``(samples,)`` at 16 kHz.
        words: of :func:`~indattn.alignment.align.align`.
        title: what it is of.

    Raises:
        UserError: if it cannot be written.
    """
    seconds = len(samples) / RATE
    count = min(ROWS, math.ceil(seconds / ROW))
    length = ROW if count > 1 else seconds
    samples = samples[: round(count * length * RATE)]
    level = decibels(log_mel(samples))
    with plt.rc_context({**LINES, "axes.grid": False}):
        figure, rows = plt.subplots(
            2 * count,
            figsize=(14, 2.6 * count + 1.0),
            squeeze=False,
            layout="constrained",
            gridspec_kw={"height_ratios": [1, 2] * count},
        )
        for row in range(count):
            wave, spectrum = rows[2 * row : 2 * row + 2, 0]
            start, end = row * length, (row + 1) * length
            here = [word for word in words if word.said and word.start < end and word.end > start]
            _waveform(wave, samples, start, end)
            _spectrogram(spectrum, level, start, end)
            _words(wave, spectrum, here, start, end)
        rows[-1, 0].set_xlabel("seconds")
        figure.suptitle(title + (f": the first {count * length:.0f} s of {seconds:.0f} s" if count == ROWS else ""))
        scale = ScalarMappable(Normalize(0, 1), COLOURS)
        figure.colorbar(scale, ax=rows[:2, 0].tolist(), label="confidence", aspect=12, pad=0.01)
        with atomic(path, "wb") as file:
            figure.savefig(file, format=path.suffix[1:].casefold(), dpi=100)
        plt.close(figure)


def _waveform(axes: Axes, samples: NDArray[np.float32], start: float, end: float) -> None:
    """The least and the greatest sample of every 2 ms."""
    step = RATE // 500
    part = samples[round(start * RATE) : round(end * RATE)]
    blocks = np.pad(part, (0, -len(part) % step)).reshape(-1, step)
    times = start + np.arange(len(blocks)) * step / RATE
    axes.fill_between(times, blocks.min(1), blocks.max(1), color="#444444", linewidth=0)
    axes.set(xlim=(start, end), xticks=[], yticks=[])
    axes.set_ylim(*(np.array([-1.05, 1.05]) * max(float(np.abs(samples).max()), 1e-6)))
    axes.spines["bottom"].set_visible(False)
    axes.spines["left"].set_visible(False)


def _spectrogram(axes: Axes, level: NDArray[np.float32], start: float, end: float) -> None:
    part = level[round(start / FRAME) : round(end / FRAME)]
    loudest = level.max()
    extent = (start, start + len(part) * FRAME, 0, level.shape[1])
    axes.imshow(part.T, origin="lower", aspect="auto", cmap="Greys", extent=extent, vmin=loudest - RANGE, vmax=loudest)
    hertz = np.array([250, 1000, 4000])
    axes.set_yticks(level.shape[1] * (_mel(hertz) - _mel(LOWEST)) / (_mel(HIGHEST) - _mel(LOWEST)))
    axes.set_yticklabels(["250 Hz", "1 kHz", "4 kHz"])
    axes.set_xlim(start, end)


def _words(wave: Axes, spectrum: Axes, words: Sequence[AlignedWord], start: float, end: float) -> None:
    """Each word in the colour of its confidence, with its name above and its boundaries through both."""
    low, high = wave.get_ylim()
    for place, word in enumerate(words):
        first, last = max(word.start, start), min(word.end, end)
        wave.axvspan(first, last, color=COLOURS(word.confidence), alpha=0.45, linewidth=0)
        for edge in (word.start, word.end):
            if start <= edge <= end:
                spectrum.axvline(edge, color="#D55E00", linewidth=0.8)
        wave.text(
            (first + last) / 2,
            high + (high - low) * (0.04 + 0.2 * (place % 2)),  # names of short words beside each other
            f"{word.text} {100 * word.confidence:.0f}",
            ha="center",
            va="bottom",
            fontsize=8,
            clip_on=False,
        )


def _mel(hertz: NDArray[np.float64] | NDArray[np.int64] | float) -> NDArray[np.float64]:
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)
