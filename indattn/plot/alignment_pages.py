"""`indattn plot spans`: a recording, and how the words of its transcript move through a model's layers.

Everything comes from a run's ``recording.npz``. No torch, no weights.
"""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from indattn.data.speech.features import FRAME, decibels
from indattn.errors import UserError
from indattn.figures import LINES, shared_legend
from indattn.plot.plotter import Plotter, describe_run, recording, run_slug

__all__ = ["spans", "spans_figure", "word_spans"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
"""Words in turn, and heads."""

UNSAID = "#777777"
LOWEST, HIGHEST = 20.0, 8000.0
"""Hertz of the filter bank's ends (:func:`~indattn.data.speech.features.log_mel`)."""

RANGE = 60.0
"""Decibels below the loudest that are told apart."""


def spans(plotter: Plotter) -> None:
    """Spans through the layers, of the first seed of each kind of run that recorded them.

    Raises:
        UserError: if a run does not keep the example that is asked for.
    """
    for run in plotter.representatives():
        recorded = recording(run)
        if "layer_spans" not in recorded:
            continue
        if not 0 <= plotter.example < len(recorded["lengths"]):
            raise UserError(f"example={plotter.example}: the run keeps examples 0 to {len(recorded['lengths']) - 1}")
        figure = spans_figure(recorded, plotter.example, describe_run(run))
        plotter.save_figure(figure, f"spans-{run_slug(run)}-example-{plotter.example}")


def word_spans(recorded: dict[str, NDArray[Any]], example: int) -> NDArray[np.float64]:
    """``(layers + 1, words, 2)`` frames: from the start of a word's first token to the end of its last, by layer.

    Args:
        recorded: ``layer_spans``, ``token_words``, ``first``, ``last``
            (:meth:`~indattn.tasks.speech_text_alignment.SpeechTextAlignment.record`).
        example: its number.
    """
    there, of_token = recorded["layer_spans"][:, example], recorded["token_words"][example]
    made = np.full((len(there), np.count_nonzero(recorded["words"][example] != ""), 2), np.nan)
    for side, edge in enumerate(("first", "last")):
        tokens = np.flatnonzero(recorded[edge][example] & recorded["token_there"][example])
        made[:, of_token[tokens], side] = there[:, tokens, side]
    return made


def spans_figure(recorded: dict[str, NDArray[Any]], example: int, title: str) -> Figure:
    """The log-mel spectrogram with the words where they are said; below it their spans in every layer and the true
    ones; beside it each layer's f, if the model has a bias.

    Args:
        recorded: of :meth:`~indattn.tasks.speech_text_alignment.SpeechTextAlignment.record`.
        example: its number.
        title: what is shown.
    """
    found = FRAME * word_spans(recorded, example)
    layers, count = len(found) - 1, found.shape[1]
    true = FRAME * recorded["word_spans"][example, :count].astype(float)
    words = [textwrap.shorten(str(word), 24, placeholder="...") for word in recorded["words"][example, :count]]
    frames = recorded["frames"][example, : recorded["lengths"][example]]
    with plt.rc_context({**LINES, "axes.grid": False}):
        biased = "span_bias" in recorded
        figure = plt.figure(figsize=(11.5 if biased else 9.2, 4.6 + 0.5 * layers), layout="constrained")
        columns = figure.add_gridspec(1, 2 if biased else 1, width_ratios=[4.2, 1][: 1 + biased])
        left = columns[0, 0].subgridspec(2, 1, height_ratios=[2.2, 0.75 * (layers + 2)])
        above = figure.add_subplot(left[0])
        below = figure.add_subplot(left[1], sharex=above)
        _spectrogram(above, frames)
        _words(above, words, true)
        _layers(below, words, found, true)
        above.set_xlim(0, len(frames) * FRAME)
        if biased:
            _biases(figure, columns[0, 1], recorded["span_bias"], 1000 * FRAME * recorded["span_offsets"])
        shared_legend(figure, [below])
        figure.suptitle(f"{title}, test example {example}", fontsize=11)
    return figure


def _spectrogram(axes: Axes, frames: NDArray[np.uint8]) -> None:
    """``(frames, bands)`` codes over seconds; bands are evenly apart in mel, their axis says kHz."""
    count, bands = frames.shape
    loud = decibels(frames.T)
    axes.imshow(
        loud,
        cmap="Greys",
        vmin=loud.max() - RANGE,
        vmax=loud.max(),
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        extent=(0, count * FRAME, -0.5, bands - 0.5),
    )
    kilohertz = [0.25, 0.5, 1, 2, 4]
    low, high, at = (np.log1p(np.asarray(hertz) / 700) for hertz in (LOWEST, HIGHEST, [1000 * k for k in kilohertz]))
    axes.set_yticks((at - low) / (high - low) * (bands + 1) - 1, [f"{k:g}" for k in kilohertz])
    axes.set_ylabel("frequency (kHz)")
    axes.tick_params(labelbottom=False)


def _words(axes: Axes, words: list[str], true: NDArray[np.float64]) -> None:
    """Words above the recording, where they are said."""
    top = axes.get_ylim()[1]
    for number, (word, (start, end)) in enumerate(zip(words, true, strict=True)):
        if np.isnan(start):
            continue
        colour = COLOURS[number % len(COLOURS)]
        axes.axvspan(start, end, color=colour, alpha=0.13, linewidth=0)
        axes.annotate(
            word,
            ((start + end) / 2, top),
            xytext=(0, 3),
            textcoords="offset points",
            rotation=45,
            rotation_mode="anchor",
            fontsize=9,
            color=colour,
        )


def _layers(axes: Axes, words: list[str], found: NDArray[np.float64], true: NDArray[np.float64]) -> None:
    """A row a layer, the first of what it starts from, the last of true spans; a line from row to row a word."""
    layers = len(found) - 1
    rows = np.arange(layers + 1)
    for number, (word, (start, end)) in enumerate(zip(words, true, strict=True)):
        unsaid = bool(np.isnan(start))
        colour = UNSAID if unsaid else COLOURS[number % len(COLOURS)]
        centres = found[:, number].mean(-1)
        look = {"linestyle": ":", "marker": "x"} if unsaid else {"linestyle": "-", "marker": "o"}
        axes.plot(centres, rows, color=colour, linewidth=1, markersize=4, zorder=3, **look)  # type: ignore[arg-type]
        axes.hlines(rows, *found[:, number].T, color=colour, linewidth=5, alpha=0.25)
        if unsaid:
            axes.text(centres[0], -0.16, word, color=colour, fontsize=8, ha="center", va="bottom")
        else:
            axes.plot([centres[-1], (start + end) / 2], [layers, layers + 0.72], color=colour, linewidth=0.8, ls=":")
            axes.add_patch(
                Rectangle((start, layers + 0.72), end - start, 0.56, facecolor=(colour, 0.35), edgecolor=colour)
            )
    axes.plot([], [], color=COLOURS[0], marker="o", markersize=4, linewidth=1, label="centre of a word, in its span")
    if np.isnan(true).any():
        label = "of a word of the transcript that is not said"
        axes.plot([], [], color=UNSAID, marker="x", markersize=4, linewidth=1, linestyle=":", label=label)
    names = ["start: even spread", *(f"layer {layer}" for layer in rows[1:]), "true spans"]
    axes.set_yticks(np.arange(layers + 2), names)
    axes.set(ylim=(layers + 1.45, -0.6), xlabel="time (s)")
    axes.grid(visible=True, axis="x")


def _biases(figure: Figure, place: SubplotSpec, bias: NDArray[Any], offsets: NDArray[Any]) -> None:
    """f of every layer (row) and head (line) less its mean, which a softmax does not see.

    Args:
        figure: to draw into.
        place: where.
        bias: ``(layers, heads, offsets)``.
        offsets: ``(offsets,)`` in ms.
    """
    layers, heads, _ = bias.shape
    panels = place.subgridspec(layers, 1)
    first: Axes | None = None
    for layer in range(layers):
        axes = figure.add_subplot(panels[layer], sharex=first)
        first = first or axes
        for head in range(heads):
            f = bias[layer, head].astype(float)
            line = ("-", "--", "-.", ":")[head % 4]
            axes.plot(offsets, f - f.mean(), color=COLOURS[head % 4], linestyle=line, linewidth=1.3)
        axes.axvline(0, color="#BBBBBB", linewidth=0.8, zorder=0)
        axes.set_title(f"f of layer {layer + 1}, a line a head", fontsize=9)
        axes.set_ylabel("bias (score)", fontsize=9)
        axes.tick_params(labelsize=8, labelbottom=layer == layers - 1)
    axes.set_xlabel("offset from the centre (ms)", fontsize=9)
