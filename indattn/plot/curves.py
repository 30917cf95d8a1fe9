"""`indattn plot curves noise figure2`: scores against steps and against noise."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from indattn import figures
from indattn.plot import alignment_tables, readings, retrieval
from indattn.plot.alignment_results import is_alignment
from indattn.plot.plotter import Plotter
from indattn.plot.scores import paired, run_table, steps_taken, summary
from indattn.runs import Run

__all__ = ["curves", "figure2", "noise"]


def curves(plotter: Plotter) -> None:
    """Learning curves, a figure a task; tables of final scores, their paired differences, and steps to 0.9."""
    for task, table in plotter.table.groupby("task"):
        found = plotter.curves(table)
        figure = figures.learning_curves(found, table, "variant", "noise", str(task).replace("_", " "))
        plotter.save_figure(figure, f"curves-{task}")
        columns = ["task", "kind", "noise", "variant"]
        plotter.save_table(summary(table, [*columns, "model"]), f"curves-{task}")
        plotter.save_table(paired(table, columns), f"curves-{task}-paired")
        plotter.save_table(steps_taken(table, columns), f"curves-{task}-steps")


def noise(plotter: Plotter) -> None:
    """Score against noise, a figure a task, kind and variant with at least two levels.

    The variant nearest to the defaults (of those, the one with most runs) is ``noise-<task>`` whatever else is
    there; the names of the others say in what they differ from it.
    """
    for task, of_task in plotter.table.groupby("task"):
        if is_alignment(Run(Path(of_task["path"].iloc[0]))):
            alignment_tables.error_figures(plotter)
            continue
        for name, title, table in plotter.variants(str(task), of_task):
            if retrieval.is_retrieval(Run(Path(table["path"].iloc[0]))):
                retrieval.noise_figures(plotter, name, title, str(table["variant"].iloc[0]))
            else:
                _noise(plotter, f"noise-{name}", table, title)


def _noise(plotter: Plotter, name: str, table: pd.DataFrame, title: str) -> None:
    plotter.save_figure(figures.noise_curve(table, title), name)
    plotter.save_table(summary(table, ["task", "kind", "noise", "model"]), name)
    plotter.save_table(paired(table, ["task", "kind", "noise"]), f"{name}-paired")
    plotter.save_table(table.drop(columns=["path", "variant"]), f"{name}-runs")
    plotter.save_table(
        plotter.curves(table)[["model", "noise", "seed", "step", "accuracy", "loss", "train_loss"]],
        f"{name}-curves",
    )


def figure2(plotter: Plotter) -> None:
    """The paper's two tasks without noise: learning curves, scores and paired differences by reading."""
    table = plotter.table
    if not plotter.table.empty:
        table = table[table["task"].isin(readings.PAPER_TASKS) & (table["noise"] == 0)]
    if table.empty:
        return
    # Readings are compared across both tasks: name them by what differs within these runs alone.
    runs = [Run(Path(path)) for path in table["path"]]
    table = run_table(runs)
    plotter.save_figure(
        figures.learning_curves(plotter.curves(table), table, "variant", "task", "Figure 2 of the paper, by reading"),
        "figure2",
    )
    columns = ["task", "variant", "model"]
    plotter.save_table(summary(table, columns), "figure2")
    plotter.save_table(paired(table, columns[:2]), "figure2-paired")
    plotter.save_table(table.drop(columns="path"), "figure2-runs")
    plotter.save_table(
        plotter.curves(table)[["task", "variant", "model", "seed", "step", "accuracy", "loss", "train_loss"]],
        "figure2-curves",
    )
