"""`indattn plot pareto`: what each model scores at each noise level, against the operations of its training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from indattn.figures import LINES, STYLES, plain_log, style
from indattn.plot.plotter import Plotter
from indattn.runs import Run
from indattn.statistics import mean_interval

__all__ = ["on_front", "pareto", "pareto_panels", "pareto_table"]


ALIKE = 0.01
"""Costs that differ by no more than this part are one cost: parameters are matched, but to a multiple of 8 units."""


def on_front(costs: Sequence[float], scores: Sequence[float], alike: float = ALIKE) -> list[bool]:
    """Of each point whether no other dominates it: scores more for no more cost, or as much for less.

    Args:
        costs, scores: a number a point each; scores are better the higher they are.
        alike: part by which a cost must exceed another to be more.
    """
    points = list(zip(costs, scores, strict=True))
    return [
        not any((s > score and c <= cost * (1 + alike)) or (s >= score and c * (1 + alike) < cost) for c, s in points)
        for cost, score in points
    ]


def pareto_table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a model and noise level: its score, what its training took, whether it is on the front of the level.

    Args:
        runs: a row a run: ``model, noise, seed, accuracy, gflops, parameters``.

    Returns:
        columns ``model``, ``noise``, ``seeds``, ``gflops`` (10^9 operations of all steps, a median over the seeds that
        all models of the level have: where examples differ in length each seed counts them on a batch of its own),
        ``parameters``, ``score``, ``low`` and ``high`` (mean over seeds and its 95% interval, Student's t) and
        ``on_front`` (:func:`on_front`), which looks at the means alone.
    """
    rows: list[dict[str, Any]] = []
    for (noise, model), group in runs.groupby(["noise", "model"]):
        interval = mean_interval(group["accuracy"].tolist())
        shared = group[group["seed"].isin(_shared_seeds(runs[runs["noise"] == noise]))]
        rows.append(
            {
                "model": model,
                "noise": noise,
                "seeds": interval.count,
                "gflops": float((group if shared.empty else shared)["gflops"].median()),
                "parameters": int(group["parameters"].median()),
                "score": interval.mean,
                "low": interval.low,
                "high": interval.high,
            }
        )
    table = pd.DataFrame(rows).sort_values(["noise", "gflops", "model"], ignore_index=True)
    for _, level in table.groupby("noise"):
        table.loc[level.index, "on_front"] = on_front(level["gflops"].tolist(), level["score"].tolist())
    return table.astype({"on_front": bool})


def _shared_seeds(runs: pd.DataFrame) -> set[int]:
    return set.intersection(*(set(seeds) for _, seeds in runs.groupby("model")["seed"]))


def pareto(plotter: Plotter) -> None:
    """A figure and a table a task, kind and variant in which there are two models at least.

    They are named as those of `indattn plot noise`: ``pareto-<task>`` is the variant nearest to the defaults. A run
    whose result does not count its operations is left out.
    """
    for task, of_task in plotter.table.groupby("task"):
        results = [Run(Path(path)).result() for path in of_task["path"]]
        steps = [result["steps"] * (result.get("flops_per_step") or np.nan) / 1e9 for result in results]
        counted = of_task.assign(gflops=steps).dropna(subset="gflops")
        for name, title, runs in plotter.variants(str(task), counted, levels=1):
            if runs["model"].nunique() > 1:
                table = pareto_table(runs)
                plotter.save_figure(pareto_panels(table, title, str(runs["metric"].iloc[0])), f"pareto-{name}")
                plotter.save_table(table, f"pareto-{name}")


def pareto_panels(table: pd.DataFrame, title: str, metric: str = "accuracy") -> Figure:
    """Score against operations, a panel a noise level; markers of models on the front are filled, steps join them.

    Markers of one cost (:data:`ALIKE`) stand side by side.

    Args:
        table: of :func:`pareto_table`.
        title: what is shown.
        metric: what the score is called.
    """
    order = list(STYLES)
    models = sorted(table["model"].unique(), key=lambda m: (order.index(m) if m in order else len(order), m))
    levels = sorted(table["noise"].unique())
    across = min(3, len(levels))
    down = -(-len(levels) // across)
    seeds = sorted(set(table["seeds"]))
    table = table.assign(tflops=table["gflops"] / 1000)
    middle, reach = _limits(table["tflops"])
    with plt.rc_context(LINES):
        figure, grid = plt.subplots(
            down,
            across,
            figsize=(max(5.2, 3.3 * across + 0.5), 2.9 * down + 1.3),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for axes in grid.flat[len(levels) :]:
            axes.set_axis_off()
        for axes, noise in zip(grid.flat, levels, strict=False):
            here = table[table["noise"] == noise]
            front = here[here["on_front"]]
            axes.plot(front["tflops"], front["score"], color="#888888", linewidth=1.0, drawstyle="steps-post", zorder=1)
            for row, x in zip(here.to_dict("records"), _side_by_side(here["tflops"].tolist(), reach), strict=True):
                colour, marker, _ = style(row["model"], models)
                axes.vlines(x, *np.clip([row["low"], row["high"]], 0, 1), color=colour, linewidth=1.3, alpha=0.6)
                axes.plot(
                    x,
                    row["score"],
                    marker=marker,
                    markersize=7,
                    markeredgewidth=1.4,
                    color=colour,
                    markerfacecolor=colour if row["on_front"] else "white",
                    linestyle="none",
                    zorder=4 if row["on_front"] else 3,
                )
            axes.set_title(f"noise {noise:g}")
            axes.set_xscale("log")
            axes.set_xlim(middle / reach, middle * reach)
            plain_log(axes.xaxis)
        for axes in grid[:, 0]:
            axes.set_ylabel(f"test {metric}")
        for number, axes in enumerate(grid.flat[: len(levels)]):
            if number + across >= len(levels):  # nothing below it
                axes.tick_params(labelbottom=True)
                axes.set_xlabel("operations of training (TFLOP)\nside by side: alike within 1%")
        handles = [
            Line2D([], [], color=colour, marker=marker, markersize=7, linestyle="none", label=model)
            for model in models
            for colour, marker, _ in [style(model, models)]
        ]
        handles.append(Line2D([], [], color="#888888", linewidth=1.0, label="Pareto front (filled markers)"))
        figure.legend(handles=handles, loc="outside lower center", ncol=min(4, len(handles)))
        said = "one seed, no interval" if seeds == [1] else f"mean and 95% interval over {_range(seeds)} seeds"
        figure.suptitle(f"{title} ({said})", fontsize=11)
    return figure


def _limits(costs: pd.Series) -> tuple[float, float]:
    """Middle of a logarithmic axis and the factor to its ends: not so near that costs that are alike look different."""
    low, high = float(costs.min()), float(costs.max())
    return math.sqrt(low * high), max(math.sqrt(high / low) * 1.2, 1.6)


def _side_by_side(costs: list[float], reach: float) -> list[float]:
    """Where to draw ascending costs, those that are alike apart, on an axis from 1 / reach to reach."""
    groups: list[list[float]] = []
    for cost in costs:
        if groups and cost <= groups[-1][0] * (1 + ALIKE):
            groups[-1].append(cost)
        else:
            groups.append([cost])
    apart = reach**0.075
    return [cost * apart ** (i - (len(group) - 1) / 2) for group in groups for i, cost in enumerate(group)]


def _range(seeds: list[int]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
