"""Figures of retrieval, as functions from the tables of :mod:`indattn.plot.retrieval`. No torch, no weights."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from indattn.figures import LINES, shared_legend, style

__all__ = ["NAMES", "difference_panels", "model_order", "name", "recall_curves"]

NAMES = {
    "indirect": "indirect",
    "standard": "standard",
    "cross": "cross",
    "fusion": "fusion",
    "dual": "dual encoder",
    "dual_small_loss": "dual, small-loss selection",
    "indirect_small_loss": "indirect, small-loss selection",
    "indirect_tokens": "indirect, a token a key",
    "uniform": "uniform attention (control)",
    "indirect_shuffled": "shuffled keys (control)",
    "frozen": "no training: text lookup, nearest features",
    "pixels": "no training: text lookup, nearest pixels",
}
LOOKUP_STYLES = {"frozen": ("#6A3D9A", (0, (1, 1))), "pixels": ("#B79BD0", (0, (1, 1)))}
NOISE = "training pairs with a wrong text"
RECALL = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "mrr": "mean reciprocal rank"}


def name(model: str) -> str:
    """A model in a legend."""
    return NAMES.get(model, model.replace("_", " "))


def model_order(models: object) -> list[str]:
    """Models as legends list them: those of :data:`NAMES` in its order, then others."""
    order = list(NAMES)
    return sorted(set(models), key=lambda m: (order.index(m) if m in order else len(order), m))  # type: ignore[call-overload]


def words(test: str, direction: str | None = None) -> str:
    """A test, or one of its directions, in a title."""
    said = {"unseen": "unseen concepts", "style": "unseen artist, seen concepts"}.get(test, f"corpus {test}")
    return said if direction is None else f"{said}\n{direction.replace('_', ' ')}"


def _kept(values: pd.Series) -> list[str]:
    """Different values in the order in which they come."""
    return [str(value) for value in dict.fromkeys(values)]


def _percent(axes: Axes, levels: list[float], apart: float = 0.0) -> None:
    """Both axes in percent, ticks at those levels that are so far apart, in parts of the axis."""
    span = levels[-1] - levels[0]
    shown = levels[:1]
    for level in levels[1:]:
        if level - shown[-1] >= apart * span:
            shown.append(level)
    axes.set_xticks(shown)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))


def _seeds(table: pd.DataFrame) -> str:
    low, high = int(table["seeds"].min()), int(table["seeds"].max())
    return f"{high} seed{'s' if high > 1 else ''}" if low == high else f"{low} to {high} seeds"


def recall_curves(table: pd.DataFrame, title: str, measure: str = "r10") -> Figure:
    """Recall against noise: a column a test, a row a direction, a line a model.

    Args:
        table: :func:`indattn.plot.retrieval.summary` of one variant.
        title: what is shown.
        measure: a column with ``_low``, ``_high`` and ``_chance`` beside it.
    """
    tests, ways = _kept(table["test"]), _kept(table["direction"])
    models = model_order(table["model"])
    trained = [model for model in models if model not in LOOKUP_STYLES]
    levels = sorted(table["noise"].unique())
    with plt.rc_context(LINES):
        figure, grid = plt.subplots(
            len(ways),
            len(tests),
            figsize=(4.6 * len(tests) + 0.6, 3.3 * len(ways) + 1.3),
            sharex=True,
            sharey="col",
            squeeze=False,
            layout="constrained",
        )
        for i, way in enumerate(ways):
            for j, test in enumerate(tests):
                axes = grid[i][j]
                here = table[(table["test"] == test) & (table["direction"] == way)]
                chance = here.groupby("noise")[f"{measure}_chance"].first()
                axes.plot(chance.index, chance, color="#666666", linestyle=":", linewidth=1.1, label="random order")
                for model in models:
                    rows = here[here["model"] == model].sort_values("noise")
                    if rows.empty:
                        continue
                    if model in LOOKUP_STYLES:
                        colour, line = LOOKUP_STYLES[model]
                        marker = None
                    else:
                        colour, marker, line = style(model, trained)
                    axes.plot(
                        rows["noise"],
                        rows[measure],
                        color=colour,
                        linestyle=line,
                        marker=marker,
                        markersize=5,
                        linewidth=2.2 if model == "indirect" else 1.5,
                        zorder=4 if model == "indirect" else 3,
                        label=name(model),
                    )
                    low, high = np.clip([rows[f"{measure}_low"], rows[f"{measure}_high"]], 0, 1)
                    axes.fill_between(rows["noise"], low, high, color=colour, alpha=0.1, linewidth=0)
                _percent(axes, levels)
                axes.set_ylim(bottom=0)
                if i == 0:
                    axes.set_title(words(test))
                if i == len(ways) - 1:
                    axes.set_xlabel(NOISE)
                if j == 0:
                    axes.set_ylabel(f"{way.replace('_', ' ')}\n{RECALL[measure]}")
        shared_legend(figure, list(grid.flat))
        figure.suptitle(f"{title} (mean and 95% interval over {_seeds(table)})", fontsize=11)
    return figure


def difference_panels(table: pd.DataFrame, less: str, title: str) -> Figure:
    """Differences from one model against noise: a column a model, a row a test and direction.

    The dark band is over seeds, the light one over seeds and concepts; with one level they are bars.

    Args:
        table: :func:`indattn.plot.retrieval.differences` of one variant, measure and ``less``.
        less: the model that is subtracted.
        title: what is shown.
    """
    measure = RECALL[str(table["measure"].iloc[0])]
    rows = list(dict.fromkeys(zip(table["test"], table["direction"], strict=True)))
    models = model_order(table["model"])
    trained = [model for model in models if model not in LOOKUP_STYLES]
    levels = sorted(table["noise"].unique())
    with plt.rc_context(LINES):
        figure, grid = plt.subplots(
            len(rows),
            len(models),
            figsize=(1.65 * len(models) + 1.2, 1.75 * len(rows) + 1.3),
            sharex=True,
            sharey="row",
            squeeze=False,
            layout="constrained",
        )
        titled: set[str] = set()
        for i, (test, way) in enumerate(rows):
            for j, model in enumerate(models):
                axes = grid[i][j]
                of = table[(table["test"] == test) & (table["direction"] == way) & (table["model"] == model)]
                of = of.sort_values("noise")
                if of.empty:
                    axes.set_axis_off()
                    continue
                colour = LOOKUP_STYLES[model][0] if model in LOOKUP_STYLES else style(model, trained)[0]
                axes.axhline(0, color="#444444", linewidth=1.0, zorder=2)
                for kind, alpha, width, label in (
                    ("crossed_", 0.18, 1.2, "95% over seeds and concepts"),
                    ("", 0.4, 3.5, "95% over seeds"),
                ):
                    ends = of["noise"], of[f"{kind}low"], of[f"{kind}high"]
                    if len(of) > 1:
                        axes.fill_between(*ends, color=colour, alpha=alpha, linewidth=0, label=label)
                    else:
                        axes.vlines(*ends, color=colour, linewidth=width, alpha=0.7, label=label)
                axes.plot(of["noise"], of["mean"], color=colour, marker="o", markersize=3.5, linewidth=1.5, zorder=3)
                _percent(axes, levels, 0.3)
                axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:+.3g}" if abs(value) > 1e-9 else "0")
                axes.tick_params(axis="x", labelsize=8)
                if model not in titled:
                    titled.add(model)
                    said = name(model).replace(", ", ",\n").replace(": ", ":\n").replace(" (", "\n(")
                    axes.set_title(said, fontsize=9)
                if j == 0:
                    axes.set_ylabel(words(test, way).replace(", ", ",\n"), fontsize=9)
        shown = [grid[0][0]]
        handles, labels = shown[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncol=2, title=f"across: {NOISE}")
        figure.suptitle(
            f"{title}: {measure} less that of: {name(less)}; in percentage points, paired by seed ({_seeds(table)})",
            fontsize=11,
        )
    return figure
