"""Figures of speech-text alignment, from the tables of :mod:`indattn.plot.alignment_tables`. No torch, no weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from indattn.alignment.scores import TOLERANCES
from indattn.figures import LINES, shared_legend, style

__all__ = ["FORMULATIONS", "cumulative_corpora", "cumulative_levels", "error_curves"]

FORMULATIONS = {
    "centres": "centres: layers refine spans",
    "pointer": "pointer: tokens point at frames",
    "frames": "frames: frames point at tokens",
}
MODELS = ("indirect", "standard", "cross", "cross_moving", "phone_classifier")
BASELINES: dict[str, tuple[str, str, Any]] = {
    "linear": ("even spread", "#8A8A8A", ":"),
    "energy_durations": ("energy and mean durations", "#5A5A5A", (0, (1, 1))),
    "dtw": ("warping onto synthetic speech", "#8A8A8A", (0, (4, 1, 1, 1))),
    "pocketsphinx": ("PocketSphinx", "#2A2A2A", (0, (1, 2.5))),
    "reference": ("indattn align", "#000000", (0, (6, 1.5))),
}
"""Aligners that are not among the models: name, grey, line."""

NOISE = "noise (level of drift)"
TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 400, 1000, 2000, 4000, 10000, 20000, 40000)
MARKER = 1.1
"""Half a marker's height on the axis of errors, as a ratio; it must not be cut."""

MEASURES = {"start_median_ms": "median error (ms)", "start_mean_ms": "mean error (ms)"}


def name(model: str) -> str:
    """A model in a legend."""
    return {"cross_moving": "cross with moving bias"}.get(model, model.replace("_", " "))


def ordered(models: pd.Series) -> list[str]:
    """Models as legends list them."""
    order = list(MODELS)
    return sorted(set(models), key=lambda m: (order.index(m) if m in order else len(order), m))


def _baseline(baseline: str, known: Sequence[str]) -> tuple[str, str, Any]:
    """Name, colour and line; those without a line of their own have a grey dashed one."""
    key = baseline.replace("-", "_")
    if key in BASELINES:
        return BASELINES[key]
    others = [one for one in known if one.replace("-", "_") not in BASELINES]
    return baseline.replace("_", " "), "#7A7A7A", (0, (3 + 2 * others.index(baseline), 2))


def _seeds(table: pd.DataFrame) -> str:
    low, high = int(table["seeds"].min()), int(table["seeds"].max())
    if high == 1:
        return "one seed, no interval"
    return f"mean and 95% interval over {high if low == high else f'{low} to {high}'} seeds"


def _formulations(table: pd.DataFrame) -> list[str]:
    return [one for one in FORMULATIONS if one in set(table["formulation"])]


def _limits(values: np.ndarray) -> tuple[float, float]:
    """The ticks next below and above all positive numbers with room for markers, so that an axis has two at least."""
    values = values[np.isfinite(values) & (values > 0)]
    low, high = (values.min() / MARKER, values.max() * MARKER) if len(values) else (10.0, 100.0)
    below = [tick for tick in TICKS if tick <= low]
    above = [tick for tick in TICKS if tick >= high and tick > (below or TICKS)[-1 if below else 0]]
    return (below[-1] if below else TICKS[0]), (above[0] if above else TICKS[-1])


def error_curves(table: pd.DataFrame, baselines: pd.DataFrame, title: str) -> Figure:
    """Median (above) and mean error of word starts against noise, a column a formulation, a line a model.

    Args:
        table: :func:`indattn.plot.alignment_tables.summary` of one corpus that was tested on.
        baselines: of all corpora, maybe none (:func:`indattn.plot.alignment_results.baselines`).
        title: what is shown.
    """
    columns, models = _formulations(table), ordered(table["model"])
    beside = baselines[baselines["data"] == table["data"].iloc[0]]
    levels = sorted({*table["noise"], *beside["noise"]})
    names = sorted(beside["baseline"].unique())
    # Of one level alone all would be on one spot.
    apart = dict(zip([*names, *models], np.linspace(-0.4, 0.4, len(names) + len(models)), strict=True))
    with plt.rc_context(LINES):
        figure, grid = plt.subplots(
            2,
            len(columns),
            figsize=(max(5.2, 3.3 * len(columns) + 0.8), 6.2),
            sharex=True,
            sharey="row",
            squeeze=False,
            layout="constrained",
        )
        for i, (measure, label) in enumerate(MEASURES.items()):
            shown = [one[measure + end] for one in (table, beside) for end in ("", "_low", "_high")]
            low, high = _limits(np.concatenate(shown).astype(float))
            for j, formulation in enumerate(columns):
                axes = grid[i][j]
                for one in (*names, *models):
                    if one in models:
                        rows = table[(table["formulation"] == formulation) & (table["model"] == one)]
                        said, (colour, marker, line) = name(one), style(one, models)
                        width = 2.2 if one == "indirect" else 1.5
                    else:
                        rows, marker, width = beside[beside["baseline"] == one], ".", 1.1
                        said, colour, line = _baseline(one, names)
                    if rows.empty:
                        continue
                    if len(levels) == 1:
                        rows = rows.assign(noise=rows["noise"] + apart[one])
                    look = {"color": colour, "linestyle": line, "linewidth": width, "marker": marker}
                    _curve(axes, rows, measure, low, said, **look)
                axes.set(yscale="log", ylim=(low, high))
                axes.set_xticks(levels, [f"{level:g}" for level in levels])
                ticks = [tick for tick in TICKS if low <= tick <= high]
                axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
                axes.yaxis.set_minor_locator(NullLocator())
                if i == 0:
                    axes.set_title(FORMULATIONS[formulation])
                else:
                    axes.set_xlabel(NOISE)
                if j == 0:
                    axes.set_ylabel(label)
        shared_legend(figure, list(grid.flat))
        said = f"Word starts, {title} ({_seeds(table)})"
        if (table["not_placed"] > 0).any() or (beside["not_placed"] > 0).any():
            said += "\na word that is not placed counts with the length of its recording"
        figure.suptitle(said, fontsize=11)
    return figure


def _curve(axes: Axes, rows: pd.DataFrame, measure: str, lowest: float, label: str, **line: Any) -> None:
    """A measure against noise with its band; what is below the axis (zero has no logarithm) is on its edge."""
    rows = rows.sort_values("noise")
    value, low, high = (rows[f"{measure}{end}"].clip(lower=lowest) for end in ("", "_low", "_high"))
    axes.plot(rows["noise"], value, label=label, markersize=5, **line)
    if len(rows) > 1:
        axes.fill_between(rows["noise"], low, high, color=line["color"], alpha=0.13, linewidth=0)
    else:
        axes.vlines(rows["noise"], low, high, color=line["color"], alpha=0.5, linewidth=2.5)


def cumulative_levels(table: pd.DataFrame, baselines: pd.DataFrame, title: str) -> Figure:
    """Share of words against the error of their starts: a column a noise level, a row a formulation, a line a model.

    Args:
        table: :func:`indattn.plot.alignment_tables.cumulative` of one corpus.
        baselines: of all corpora, maybe none.
        title: what is shown.
    """
    levels = sorted(table["noise"].unique())
    panels = {
        (i, j): ((table["formulation"] == formulation) & (table["noise"] == level), formulation, f"noise {level:g}")
        for i, formulation in enumerate(_formulations(table))
        for j, level in enumerate(levels)
    }
    return _cumulative(table, baselines, panels, f"Word starts, {title}")


def cumulative_corpora(table: pd.DataFrame, baselines: pd.DataFrame, title: str) -> Figure:
    """The same of one formulation: a column a corpus, a row a level of the test and of the training.

    Levels are those that a corpus other than the training's was tested at.
    """
    own = table["trained_data"].iloc[0]
    corpora = sorted(table["data"].unique(), key=lambda data: (data != own, data))
    others = table[table["data"] != own]
    levels = sorted(set(zip(others["noise"], others["trained_noise"], strict=True)))
    panels = {}
    for i, (noise, trained) in enumerate(levels):
        said = f"noise {noise:g}" if noise == trained else f"noise {noise:g}\n(trained at {trained:g})"
        for j, data in enumerate(corpora):
            here = (table["data"] == data) & (table["noise"] == noise) & (table["trained_noise"] == trained)
            panels[i, j] = (here, said, data)
    return _cumulative(table, baselines, panels, f"Word starts, {title}")


def _cumulative(
    table: pd.DataFrame,
    baselines: pd.DataFrame,
    panels: dict[tuple[int, int], tuple[pd.Series, str, str]],
    title: str,
) -> Figure:
    """Panels by row and column: which rows of the table they show, the name of their row, that of their column."""
    rows, columns = (1 + max(place[k] for place in panels) for k in (0, 1))
    models = ordered(table["model"])
    with plt.rc_context(LINES):
        figure, grid = plt.subplots(
            rows,
            columns,
            figsize=(max(5.2, 2.75 * columns + 0.9), 2.3 * rows + 1.2),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for (i, j), (chosen, row, column) in panels.items():
            axes, here = grid[i][j], table[chosen]
            if len(here):
                for limit in TOLERANCES:
                    axes.axvline(limit, color="#BBBBBB", linewidth=0.9, zorder=1)
                _marks(axes, here, baselines)
            for model in models:
                of = here[here["model"] == model]
                if of.empty:
                    continue
                colour, _, line = style(model, models)
                axes.plot(of["error_ms"], of["share"], color=colour, linestyle=line, label=name(model))
                low, high = np.clip([of["low"], of["high"]], 0, 1)
                axes.fill_between(of["error_ms"], low, high, color=colour, alpha=0.15, linewidth=0)
            axes.set(xscale="log", xlim=(1, 1000), ylim=(0, 1))
            ticks = [1, 5, *TOLERANCES, 300, 1000]
            axes.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8)
            axes.xaxis.set_minor_locator(NullLocator())
            axes.grid(visible=False, axis="x")
            axes.yaxis.set_major_formatter(PercentFormatter(1))
            if i == 0:
                axes.set_title(column)
            if i == rows - 1:
                axes.set_xlabel("error of a word's start (ms)")
            if j == 0:
                axes.set_ylabel(f"{row}\nwords within it")
            if here.empty:
                axes.text(0.5, 0.5, "not tested", transform=axes.transAxes, ha="center", color="#666666", fontsize=9)
        shared_legend(figure, list(grid.flat))
        figure.suptitle(f"{title} ({_seeds(table)})", fontsize=11)
    return figure


def _marks(axes: Axes, here: pd.DataFrame, baselines: pd.DataFrame) -> None:
    """Shares of other aligners at the errors at which they are known."""
    data, noise = here["data"].iloc[0], here["noise"].iloc[0]
    names = sorted(baselines["baseline"].unique())
    of = baselines[(baselines["data"] == data) & (baselines["noise"] == noise)]
    for row in of.to_dict("records"):
        said, colour, line = _baseline(row["baseline"], names)
        shares = [row[f"start_within_{limit}"] for limit in TOLERANCES]
        axes.plot(TOLERANCES, shares, color=colour, linestyle=line, linewidth=1.1, marker=".", markersize=5, label=said)
