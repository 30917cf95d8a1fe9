"""Figures of the theory: lines are closed forms, points are measured, bars are two standard errors."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from indattn.figures import LINES, plain_log, save
from indattn.theory.readings import SENTENCES, Reading, Sentence

__all__ = ["reading", "save", "sharpness", "summary", "threshold"]

MARKERS = "osD^vPX*h"
HOLDS, FAILS, THRESHOLD = "#0072B2", "#D55E00", "#666666"


def _colours(count: int) -> list[tuple[float, ...]]:
    """From dark to light, told apart in grey and by colour-blind readers; the yellow end is left out."""
    return [tuple(c) for c in plt.get_cmap("viridis")(np.linspace(0.0, 0.85, count))]


def _series(axes: Axes, rows: pd.DataFrame, x: str, by: str, label: str, legend: bool = True) -> None:
    """A line (exact) and points with bars (measured) for each value of a column."""
    values = sorted(rows[by].unique())
    for value, colour, marker in zip(values, _colours(len(values)), MARKERS * 9, strict=False):
        line = rows[rows[by] == value].sort_values(x)
        axes.plot(line[x], line["exact"], color=colour, linewidth=1.4)
        axes.errorbar(
            line[x],
            line["value"],
            yerr=2 * line["error"],
            color=colour,
            marker=marker,
            markersize=4.5,
            linestyle="none",
            capsize=2,
            label=f"{label}{value:g}" if legend else None,
        )


def _log(axes: Axes, x: Sequence[float], base: int = 2) -> None:
    axes.set_xscale("log", base=base)
    axes.set_yscale("log")
    plain_log(axes.yaxis)
    axes.set_xticks(list(x), [f"{value:.4g}" for value in x])
    axes.xaxis.set_minor_formatter(NullFormatter())


def _said(axes: Axes, rows: pd.DataFrame, sentences: Mapping[str, Sentence]) -> None:
    """Under a panel: its sentences, and whether each holds."""
    for number, row in enumerate(rows.itertuples()):
        text = sentences[str(row.sentence)].text
        axes.annotate(
            f"{'✓' if row.holds else '✗'}  {text}  ({row.number:.3g})",
            (0.0, -0.22 - 0.075 * number),
            xycoords="axes fraction",
            va="top",
            fontsize=9,
            color=HOLDS if row.holds else FAILS,
            annotation_clip=False,
        )


def reading(shown: Mapping[str, pd.DataFrame], which: Reading, judged: pd.DataFrame) -> Figure:
    """The three panels under one reading.

    Args:
        shown: of :func:`indattn.theory.readings.panels`.
        which: the reading.
        judged: of :func:`indattn.theory.readings.verdicts`.
    """
    rows = judged[
        (judged["source"] == which.source) & (judged["signal"] == which.signal) & (judged["shift"] == which.shift)
    ]
    with plt.rc_context(LINES):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13.0, 4.2))
        figure.subplots_adjust(wspace=0.28)
        sigmas = sorted(shown["left"]["sigma"].unique())
        _series(left, shown["left"], "sigma", "d", "d = ")
        left.plot(sigmas, [s**-2.0 for s in sigmas], color="black", linewidth=1.1, linestyle="--", label="1/σ²")
        _log(left, sigmas)
        left.axhline(1, color=THRESHOLD, linewidth=1.1, linestyle=":")
        left.axvline(1, color=THRESHOLD, linewidth=1.1, linestyle=":")
        left.set(xlabel="σ of the noise on the values", ylabel="SNR", title="SNR against noise")
        left.legend(ncol=2, fontsize=8)

        widths = sorted(shown["middle"]["d"].unique())
        _series(middle, shown["middle"], "d", "shift", "mean shift ")
        _log(middle, widths)
        middle.axhline(1, color=THRESHOLD, linewidth=1.1, linestyle=":")
        middle.set(xlabel="width d", ylabel="SNR", title="SNR under misalignment")

        _series(right, shown["right"], "d", "shift", "mean shift ")
        for number, (_, line) in enumerate(shown["right"].groupby("shift")):
            right.plot(
                line["d"],
                line["printed"],
                color=_colours(shown["right"]["shift"].nunique())[number],
                linewidth=1.0,
                linestyle="--",
                label="as printed" if number == 0 else None,
            )
        line = shown["right"][shown["right"]["shift"] == shown["right"]["shift"].min()].sort_values("d")
        right.plot(line["d"], line["threshold"], color=THRESHOLD, linewidth=1.1, linestyle=":", label="threshold")
        _log(right, widths)
        right.set(xlabel="width d", ylabel="energy γ", title="Energy of misalignment")
        right.legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1.02, 1.02), title="middle and right")
        for axes, panel in ((left, "left"), (middle, "middle"), (right, "right")):
            _said(axes, rows[rows["panel"] == panel], SENTENCES)
        figure.suptitle(which.title[0].upper() + which.title[1:], fontsize=11, y=1.0)
    return figure


def summary(judged: pd.DataFrame, readings: Sequence[Reading], sentences: Mapping[str, Sentence]) -> Figure:
    """Which readings give which sentences of figure 1: a row a reading, a column a sentence."""
    with plt.rc_context({**LINES, "axes.grid": False}):
        figure, axes = plt.subplots(figsize=(11.5, 0.27 * len(readings) + 2.2), layout="constrained")
        for i, which in enumerate(readings):
            for j, name in enumerate(sentences):
                row = judged[
                    (judged["source"] == which.source)
                    & (judged["signal"] == which.signal)
                    & (judged["shift"] == which.shift)
                    & (judged["sentence"] == name)
                ].iloc[0]
                colour = HOLDS if row["holds"] else FAILS
                axes.add_patch(plt.Rectangle((j - 0.48, i - 0.46), 0.96, 0.92, color=colour, alpha=0.22, linewidth=0))
                mark = "✓" if row["holds"] else "✗"
                axes.text(j, i, f"{mark} {row['number']:.3g}", ha="center", va="center", fontsize=8.5, color="black")
        axes.set_xlim(-0.5, len(sentences) - 0.5)
        axes.set_ylim(len(readings) - 0.5, -0.5)
        labels = [textwrap.fill(s.text, 12) for s in sentences.values()]
        axes.set_xticks(range(len(sentences)), labels, fontsize=9)
        axes.xaxis.tick_top()
        axes.set_yticks(
            range(len(readings)), [f"{r.source} · signal {r.signal} · shift by {r.shift}" for r in readings], fontsize=9
        )
        axes.tick_params(length=0)
        panels = [s.panel for s in sentences.values()]
        for j in range(1, len(panels)):
            if panels[j] != panels[j - 1]:
                axes.axvline(j - 0.5, color="black", linewidth=1.0)
        for i in range(1, len(readings)):
            if readings[i].source != readings[i - 1].source:
                axes.axhline(i - 0.5, color="black", linewidth=1.0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for panel in ("left", "middle", "right"):
            here = [j for j, name in enumerate(panels) if name == panel]
            axes.annotate(
                f"{panel} panel",
                (sum(here) / len(here), 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 34),
                textcoords="offset points",
                ha="center",
                fontsize=10,
                fontweight="bold",
            )
        figure.suptitle(
            "Figure 1 of the paper under every reading: which sentence holds (✓ blue) or fails (✗ orange), and the "
            "number that decides it",
            fontsize=11,
        )
    return figure


def sharpness(rows: pd.DataFrame) -> Figure:
    """SNR at sigma 1, and the printed gamma over the true one, against the sharpness of the weights.

    Args:
        rows: of :func:`indattn.theory.readings.sharpness_table`.
    """
    with plt.rc_context(LINES):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
        widths = sorted(rows["d"].unique())
        for source, line, filled in (("softmax", "-", True), ("independent", "--", False)):
            for d, colour, marker in zip(widths, _colours(len(widths)), MARKERS, strict=False):
                here = rows[(rows["source"] == source) & (rows["d"] == d)].sort_values("sharpness")
                for axes, name in ((left, "snr"), (right, "print")):
                    axes.plot(here["sharpness"], here[f"{name}_exact"], color=colour, linestyle=line, linewidth=1.4)
                    axes.errorbar(
                        here["sharpness"],
                        here[name],
                        yerr=2 * here[f"{name}_error"],
                        color=colour,
                        marker=marker,
                        markerfacecolor=colour if filled else "white",
                        markersize=5,
                        linestyle="none",
                        capsize=2,
                        label=f"{source} weights, d = {d}",
                    )
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_xticks([0.02, 0.05, 0.1, 0.2, 0.5, 1.0], ["0.02", "0.05", "0.1", "0.2", "0.5", "1"])
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.axhline(1, color=THRESHOLD, linewidth=1.1, linestyle=":")
            axes.set_xlabel("sharpness Σa² (1/n uniform, 1 one-hot)")
        left.set(ylabel="SNR at σ = 1", title="SNR: weights made from the values see them")
        right.set(
            ylabel="printed γ / true γ",
            title="The printed γ is too large: by 1/Σa² for independent weights",
            yscale="log",
        )
        plain_log(right.yaxis)
        right.legend(fontsize=8)
    return figure


def threshold(rows: pd.DataFrame) -> Figure:
    """Where the critical noise moves to.

    Args:
        rows: of :func:`indattn.theory.threshold.measure`.
    """
    labels = {
        "noise_correlation": ("correlation of the noise between positions", "Noise that positions share"),
        "value_correlation": ("correlation of the values between positions", "Values that positions share"),
        "mean": ("mean of the values (per coordinate, in units of sd)", "Values with a mean"),
        "degrees": ("degrees of freedom of Student's t", "Heavy tails, σ the scale of the t"),
    }
    with plt.rc_context(LINES):
        figure, grid = plt.subplots(2, 2, figsize=(10.5, 7.6), layout="constrained")
        for axes, (what, (label, title)) in zip(grid.flat, labels.items(), strict=True):
            here = rows[rows["varied"] == what]
            curves = list(here.groupby("curve", sort=False))
            for (name, line), colour, marker in zip(curves, _colours(len(curves)), MARKERS, strict=False):
                axes.plot(line["value_of"], line["exact"], color=colour, linewidth=1.4)
                axes.errorbar(
                    line["value_of"],
                    line["value"],
                    yerr=2 * line["error"],
                    color=colour,
                    marker=marker,
                    markersize=5,
                    linestyle="none",
                    capsize=2,
                    label=str(name),
                )
            axes.axhline(1, color=THRESHOLD, linewidth=1.1, linestyle=":")
            axes.set(xlabel=label, ylabel="critical σ*", title=title)
            if what == "degrees":
                axes.set_xscale("log", base=2)
                ticks = sorted(here["value_of"].unique())
                axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
                axes.xaxis.set_minor_formatter(NullFormatter())
                axes.set_ylim(0, 1.25)
            else:
                axes.set_yscale("log")
                plain_log(axes.yaxis)
            axes.legend(fontsize=8)
        figure.suptitle(
            "Where the threshold σ* = 1 moves to (lines: formula; points: measured, bars: two standard errors)",
            fontsize=11,
        )
    return figure
