"""`indattn plot heads`: what trained heads go by, from the results of runs (the paper's figure 3 in numbers). No torch.

A head's scores are content plus position bias; :func:`indattn.recording.shares` says how much of them is bias, and how
much of the bias depends on the data. Results hold both for every layer and head of a model with a bias.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from indattn.figures import LINES, SPARE, shared_legend
from indattn.plot.plotter import Plotter
from indattn.runs import Run

__all__ = ["by_head", "by_run", "drawn", "heads"]

KEYS = ["task", "model", "noise", "seed", "hash", "self_attention", "norm", "variant"]


def heads(plotter: Plotter) -> None:
    """Two tables and a figure a task."""
    table = by_head(plotter.table)
    if table.empty:
        return
    for task, of_task in table.groupby("task"):
        plotter.save_plain(of_task, f"heads-{task}")
        plotter.save_plain(by_run(of_task), f"heads-{task}-runs")
        plotter.save_figure(drawn(of_task), f"heads-{task}")


def by_head(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a layer and head (from 1) of the runs whose result tells: :data:`KEYS`, ``position_share, data_share``.

    Args:
        runs: a row a run: ``path`` and ``variant``, what tells it apart beside model, noise and seed.
    """
    rows: list[dict[str, Any]] = []
    for path, variant in zip(runs["path"], runs["variant"], strict=True):
        run = Run(Path(path))
        if not (told := run.result().get("heads")):
            continue
        model = run.config().model
        choices = {"self_attention": bool(model.self_attention), "norm": str(model.norm), "variant": variant}
        labels = {**run.labels, **choices}
        for layer, of_layer in enumerate(told["position_share"]):
            for head, position in enumerate(of_layer):
                data = told["data_share"][layer][head]
                place = {"layer": layer + 1, "head": head + 1}
                rows.append({**labels, **place, "position_share": position, "data_share": data})
    return pd.DataFrame(rows)


def by_run(table: pd.DataFrame) -> pd.DataFrame:
    """A row a run.

    Args:
        table: :func:`by_head`.

    Returns:
        :data:`KEYS`; ``most_position, least_position``: of its heads; ``between``: the one less the other;
        ``first_data_share``: the largest of the first layer; ``later_data_share``: the mean of the others.
    """
    grouped = table.groupby(KEYS, sort=True)["position_share"]
    rows = pd.DataFrame({"most_position": grouped.max(), "least_position": grouped.min()})
    rows["between"] = rows["most_position"] - rows["least_position"]
    rows["first_data_share"] = table[table["layer"] == 1].groupby(KEYS)["data_share"].max()
    rows["later_data_share"] = table[table["layer"] > 1].groupby(KEYS)["data_share"].mean()
    return rows.reset_index()


def drawn(table: pd.DataFrame) -> Figure:
    """Position share (left) and data share (right) of each head against the layer, a colour a kind of run.

    Args:
        table: :func:`by_head`, of one task.
    """
    kinds = list(table.groupby(["model", "noise", "variant"], sort=True))
    apart = min(0.25, 0.8 / len(kinds))
    with plt.rc_context(LINES):
        figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.0), sharey=True, layout="constrained")
        for number, ((model, noise, variant), group) in enumerate(kinds):
            colour, marker, _ = SPARE[number % len(SPARE)]
            x = group["layer"] + (number - (len(kinds) - 1) / 2) * apart
            label = f"{model}, noise {noise:g}" + (f", {variant}" if variant else "")
            for one, column in zip(axes, ("position_share", "data_share"), strict=True):
                one.scatter(x, group[column], s=16, alpha=0.5, linewidth=0, color=colour, marker=marker, label=label)
        axes[0].set(title="of a head's scores, what is bias", ylabel="share of the variance", ylim=(-0.03, 1.03))
        axes[1].set(title="of the bias, what differs between examples")
        for one in axes:
            one.set(xlabel="layer", xticks=range(1, int(table["layer"].max()) + 1))
        shared_legend(figure, list(axes))
        seeds = table["seed"].nunique()
        task = str(table["task"].iloc[0]).replace("_", " ")
        figure.suptitle(f"What heads go by: {task} ({seeds} seed{'s' * (seeds > 1)}, a mark a head)", fontsize=11)
    return figure
