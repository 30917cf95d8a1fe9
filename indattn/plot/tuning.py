"""What was tuned: the validation scores of runs that differ in a learning rate or another choice."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from indattn.plot.plotter import Plotter
from indattn.runs import Run

__all__ = ["tuning"]


def tuning(plotter: Plotter) -> None:
    """A table a task, of tasks whose runs differ in more than model, noise and seed."""
    labels = ["model", "noise", "seed", "variant"]
    for task, of_task in plotter.table.groupby("task"):
        if of_task["variant"].nunique() < 2:
            continue
        rows = []
        for row in of_task.sort_values(labels).to_dict("records"):
            scores = Run(Path(row["path"])).result()["validation"]
            rows.append({**{k: row[k] for k in labels}, **{f"validation_{k}": v for k, v in scores.items()}})
        plotter.save_table(pd.DataFrame(rows), f"tuning-{task}")
