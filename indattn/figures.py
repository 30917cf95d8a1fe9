"""Figures, as functions from tables of runs to matplotlib figures. No torch, no weights.

Colours are Okabe and Ito's, told apart by colour-blind readers too; every model also has its own marker and line.
"""

from __future__ import annotations

import io
import math
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from PIL import Image

from indattn.runs import atomic
from indattn.statistics import mean_interval

__all__ = [
    "PROFILE",
    "attention_maps",
    "bias_curves",
    "learning_curves",
    "noise_curve",
    "plain_log",
    "reference_lines",
    "save",
    "shared_legend",
]

PROFILE = "INDATTN_PROFILE"
"""The environment variable by which `indattn reproduce` tells its commands their profile."""

STYLES = {
    "indirect": ("#D55E00", "o", "-"),
    "standard": ("#0072B2", "s", "--"),
    "cross": ("#009E73", "^", "-."),
    "double_cross": ("#CC79A7", "D", ":"),
    "fusion": ("#E69F00", "v", (0, (5, 1, 1, 1, 1, 1))),
    "indirect_gaussian": ("#56B4E9", "P", (0, (6, 2))),
    "indirect_fourier": ("#000000", "X", (0, (1, 1.2))),
    "indirect_expected": ("#332288", "*", (0, (3, 1))),
    "indirect_expected_shared": ("#7A5C00", "p", (0, (1, 1))),
    "indirect_expected_carried": ("#AA4499", "d", (0, (2, 1))),
    # Of pairs; controls are grey.
    "dual": ("#000000", "X", (0, (4, 2))),
    "dual_small_loss": ("#56B4E9", "P", (0, (6, 2))),
    "indirect_tokens": ("#CC79A7", "D", ":"),
    "uniform": ("#6E6E6E", "h", "-."),
    "indirect_shuffled": ("#A8A8A8", "*", "-."),
    # Of speech and text.
    "cross_moving": ("#CC79A7", "D", ":"),
    "cross_expected": ("#E69F00", "v", (0, (5, 1, 1, 1, 1, 1))),
    "phone_classifier": ("#000000", "X", (0, (4, 2))),
}
# Of models of one's own, in Paul Tol's colours: every fourth has the same one, none the same marker.
SPARE: list[tuple[str, str, Any]] = [
    (colour, marker, line)
    for colour, marker, line in zip(
        ("#882255", "#44AA99", "#999933") * 4, "<>x12348H|.+", ("-", "--", "-.", ":") * 3, strict=True
    )
]
LINES: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "lines.linewidth": 1.8,
    "pdf.fonttype": 42,
}


def style(model: str, models: Sequence[str]) -> tuple[str, str, Any]:
    """Colour, marker and line of a model; models without a style of their own take spare ones in order."""
    if model in STYLES:
        return STYLES[model]
    others = [name for name in models if name not in STYLES]
    return SPARE[others.index(model) % len(SPARE)]


def plain_log(axis: Axis) -> None:
    """A logarithmic axis that says 0.5, 1, 2 and not powers of ten; every digit where it is short."""

    def minor(value: float, _: int | None) -> str:
        low, high = axis.get_view_interval()
        return f"{value:.2g}" if high < 4 * low else ""

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(FuncFormatter(minor))


def save(figure: Figure, stem: Path, formats: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Write a figure in some formats (whole or not at all) and close it. PNGs have a palette: a quarter of the size.

    Where :data:`PROFILE` says ``quick``, the figure says so too.
    """
    if os.environ.get(PROFILE) == "quick":
        figure.text(1, 0, "profile quick: few seeds, few steps", ha="right", va="top", fontsize=7, color="#A03000")
    undated = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
    paths = []
    for form in formats:
        drawn = io.BytesIO()
        figure.savefig(drawn, format=form, dpi=150, metadata=undated[form], bbox_inches="tight")
        path = stem.with_name(f"{stem.name}.{form}")
        with atomic(path, "wb") as file:
            if form == "png":
                image = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
                image.save(file, format="png", optimize=True, dpi=(150, 150))
            else:
                file.write(drawn.getvalue())
        paths.append(path)
    plt.close(figure)
    return paths


def reference_lines(
    axes: Axes, chance: float | None, ceiling: float | None, guess: str = "best guess without context"
) -> None:
    """Lines of an accuracy: a guess (the best without the context), and the best achievable, where known."""
    for value, label, line in ((chance, guess, ":"), (ceiling, "best achievable", "--")):
        if value is not None and not math.isnan(value):
            axes.axhline(value, color="#666666", linewidth=1.1, linestyle=line, label=label, zorder=1)


def _band(axes: Axes, table: pd.DataFrame, x: str, y: str, models: Sequence[str]) -> None:
    """Mean and 95% interval over seeds of ``y`` against ``x``, a line a model; single seeds have no band."""
    for model in models:
        rows = table[table["model"] == model]
        if rows.empty:
            continue
        groups = [(float(str(value)), mean_interval(group[y].tolist())) for value, group in rows.groupby(x)]
        xs = [value for value, _ in groups]
        colour, marker, line = style(model, models)
        axes.plot(
            xs,
            [interval.mean for _, interval in groups],
            color=colour,
            linestyle=line,
            marker=marker if len(xs) < 12 else None,
            markersize=5,
            label=model,
        )
        # Cut to what an accuracy can be; a single seed has no interval, and NaN draws none.
        low, high = np.clip([(interval.low, interval.high) for _, interval in groups], 0.0, 1.0).T
        axes.fill_between(xs, low, high, color=colour, alpha=0.18, linewidth=0)


def _seeds(table: pd.DataFrame) -> str:
    counts = table.groupby([c for c in ("model", "noise", "variant", "task") if c in table])["seed"].nunique()
    low, high = int(counts.min()), int(counts.max())
    number = f"{high} seed{'s' if high > 1 else ''}" if low == high else f"{low} to {high} seeds"
    return f"mean and 95% interval over {number}" if high > 1 else "one seed, no interval"


def shared_legend(figure: Figure, axes: Sequence[Axes], columns: int = 5) -> None:
    """One legend below the figure for all its panels, of so many columns at most."""
    found: dict[str, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncol=min(columns, len(found)))


def learning_curves(curves: pd.DataFrame, runs: pd.DataFrame, rows: str, columns: str, title: str) -> Figure:
    """Validation accuracy against steps, a panel for each value of two columns.

    Args:
        curves: columns ``model, seed, step, accuracy`` and the two named.
        runs: one row a run: ``chance``, ``ceiling``, the two columns named, and ``metric``, what accuracy is called if
            it is none: its axis ends where the curves do.
        rows, columns: columns of both tables whose values become rows and columns of panels.
        title: what is shown.
    """
    models = sorted(curves["model"].unique(), key=list(STYLES).index if set(curves["model"]) <= set(STYLES) else str)
    down, across = sorted(curves[rows].unique()), sorted(curves[columns].unique())
    metric = str(runs["metric"].iloc[0]) if "metric" in runs else "accuracy"
    top = 1.03 if metric == "accuracy" else min(1.03, 1.25 * float(curves["accuracy"].max()) or 1.03)
    with plt.rc_context(LINES):
        figure, grid = plt.subplots(
            len(down),
            len(across),
            figsize=(max(5.0, 2.9 * len(across) + 0.6), 2.6 * len(down) + 1.0),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for i, row in enumerate(down):
            for j, column in enumerate(across):
                axes = grid[i][j]
                here = curves[(curves[rows] == row) & (curves[columns] == column)]
                if here.empty:
                    axes.set_axis_off()
                    continue
                of = runs[(runs[rows] == row) & (runs[columns] == column)]
                chance, ceiling = of.get("validation_chance", of["chance"]).iloc[0], of["ceiling"].iloc[0]
                if metric == "accuracy":
                    reference_lines(axes, chance, ceiling)
                else:
                    reference_lines(axes, chance, ceiling if ceiling <= top else None, "random order")
                _band(axes, here, "step", "accuracy", models)
                name = f"noise {column:g}" if columns == "noise" else str(column).replace("_", " ")
                axes.set_title(f"{name}\n{textwrap.fill(str(row), 34)}" if row else name)
                axes.set_ylim(0, top)
                axes.set_xlim(left=0)
                axes.set_xlabel("training step")
                if j == 0:
                    axes.set_ylabel(f"validation {metric}")
        shared_legend(figure, list(grid.flat))
        figure.suptitle(f"{title} ({_seeds(runs)})", fontsize=11)
    return figure


def noise_curve(runs: pd.DataFrame, title: str) -> Figure:
    """Test accuracy (left) and steps to 0.9 validation accuracy (right) against noise.

    Args:
        runs: one row a run: ``model, noise, seed, accuracy, steps_to_0.9, steps, chance, ceiling``.
        title: what is shown.
    """
    models = sorted(
        runs["model"].unique(), key=lambda m: (m not in STYLES, list(STYLES).index(m) if m in STYLES else m)
    )
    levels = sorted(runs["noise"].unique())
    with plt.rc_context(LINES):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.0), layout="constrained")
        chance = runs.groupby("noise")["chance"].first()
        ceiling = runs.groupby("noise")["ceiling"].first().dropna()
        left.plot(
            chance.index, chance, color="#666666", linestyle=":", linewidth=1.1, label="best guess without context"
        )
        if len(ceiling):
            left.plot(ceiling.index, ceiling, color="#666666", linestyle="--", linewidth=1.1, label="best achievable")
        _band(left, runs, "noise", "accuracy", models)
        left.set(xlabel="noise (level of misalignment)", ylabel="test accuracy", ylim=(0, 1.03), xticks=levels)

        limit = float(runs["steps"].max())
        spread = min(np.diff(levels), default=1.0) * 0.07
        for number, model in enumerate(models):
            colour, marker, line = style(model, models)
            rows = runs[runs["model"] == model]
            x = rows["noise"] + (number - (len(models) - 1) / 2) * spread
            reached = rows["steps_to_0.9"].notna()
            right.scatter(
                x[reached], rows["steps_to_0.9"][reached], s=16, color=colour, marker=marker, alpha=0.55, linewidth=0
            )
            right.scatter(
                x[~reached],
                np.full((~reached).sum(), limit * 1.06),
                s=18,
                facecolors="none",
                edgecolors=colour,
                marker=marker,
            )
            # A seed that never got there counts as later than all others: the median stays defined.
            median = rows.assign(t=rows["steps_to_0.9"].astype(float).fillna(np.inf)).groupby("noise")["t"].median()
            right.plot(median.index, median.replace(np.inf, np.nan), color=colour, linestyle=line, label=model)
        right.axhline(limit, color="#666666", linewidth=1.1)
        right.annotate(
            "not reached when training ended",
            (0.99, limit * 1.1),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8.5,
            color="#444444",
        )
        right.set(
            xlabel="noise (level of misalignment)",
            ylabel="steps to 0.9 accuracy",
            ylim=(0, limit * 1.2),
            xticks=levels,
        )
        shared_legend(figure, [left])
        right.set_title("validation: median (line) and each seed (marker)")
        left.set_title("test, after the last step")
        figure.suptitle(f"{title} ({_seeds(runs)})", fontsize=11)
    return figure


def bias_curves(before: dict[str, np.ndarray], after: dict[str, np.ndarray], title: str) -> Figure:
    """The bias of each layer and head against the offset, before and after training (figure 3 of the paper).

    f is drawn against the offset from the centre, less its mean (a constant does not change a softmax). The band
    is the bias really added at offset ``j - i``, mean and standard deviation over queries and examples: it has
    width only where centres have moved, that is, where the bias depends on the data.
    """
    layers, heads, _ = after["bias_function"].shape
    x = after["offsets"]
    with plt.rc_context(LINES):
        figure, grid = plt.subplots(
            layers,
            heads,
            figsize=(2.2 * heads + 0.7, 1.65 * layers + 1.0),
            sharex=True,
            squeeze=False,
            layout="constrained",
        )
        for layer in range(layers):
            for head in range(heads):
                axes = grid[layer][head]
                old, new = before["bias_function"][layer, head], after["bias_function"][layer, head]
                mean, std = after["bias_mean"][layer, head], after["bias_std"][layer, head]
                mean = mean - new.mean()
                axes.fill_between(
                    x,
                    mean - std,
                    mean + std,
                    color="#56B4E9",
                    alpha=0.4,
                    linewidth=0,
                    label="bias added at j - i after training, mean ± sd over data",
                )
                axes.plot(
                    x, old - old.mean(), color="#777777", linestyle="--", linewidth=1.2, label="f before training"
                )
                axes.plot(x, new - new.mean(), color="#D55E00", label="f after training")
                axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=9)
                axes.axvline(0, color="#BBBBBB", linewidth=0.8, zorder=0)
                axes.tick_params(labelsize=8)
                if layer == layers - 1:
                    axes.set_xlabel("offset (tokens)")
                if head == 0:
                    axes.set_ylabel("bias (score)")
        found = grid[0][0].get_legend_handles_labels()
        figure.legend(*found, loc="outside lower center", ncol=3)
        figure.suptitle(title, fontsize=11)
    return figure


def attention_maps(recorded: dict[str, np.ndarray], example: int, title: str) -> Figure:
    """Attention weights of every layer and head for one example; the line marks the queries' centres."""
    weights = recorded["attention"][:, example].astype(float)  # (L, H, m, n)
    layers, heads, m, n = weights.shape
    centres = recorded.get("centres")
    with plt.rc_context({**LINES, "axes.grid": False}):
        figure, grid = plt.subplots(
            layers,
            heads,
            figsize=(1.95 * heads + 1.3, 1.95 * layers * max(0.5, m / n) + 1.0),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for layer in range(layers):
            for head in range(heads):
                axes = grid[layer][head]
                image = axes.imshow(
                    weights[layer, head],
                    cmap="viridis",
                    vmin=0,
                    vmax=1,
                    aspect="auto",
                    origin="upper",
                    interpolation="nearest",
                )
                if centres is not None:
                    axes.plot(
                        centres[layer, example],
                        np.arange(m),
                        color="#FF7F50",
                        linewidth=1.2,
                        label="centre of the query",
                    )
                axes.set(xlim=(-0.5, n - 0.5), ylim=(m - 0.5, -0.5))
                axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=9)
                if layer == layers - 1:
                    axes.set_xlabel("value j")
                if head == 0:
                    axes.set_ylabel("query i")
        figure.colorbar(image, ax=list(grid.flat), label="attention weight", shrink=0.8)
        handles, labels = grid[0][0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center")
        figure.suptitle(title, fontsize=11)
    return figure
