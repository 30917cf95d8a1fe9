"""Figure 2 of the paper under each of its readings: where its order of the models holds. No torch here.

A reading is a choice where the paper's text leaves one: self-attention, norm, fixed or fresh training pairs, centre
update. The paper says that indirect attention is better than both others; here it is said of each reading whether it
is, as far as the runs that are there can tell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from omegaconf import OmegaConf

from indattn.errors import UserError
from indattn.figures import LINES
from indattn.plot.plotter import Plotter
from indattn.runs import Run
from indattn.statistics import mean_interval
from indattn.variants import default_settings, flat_identity, setting

__all__ = ["LEAST", "OTHERS", "PAPER_TASKS", "by_reading", "grid", "order", "readings", "sign"]

PAPER_TASKS = ("sorting", "sequence_retrieval")
OTHERS = ("standard", "cross")
"""The models that indirect attention is compared with."""

LEAST = 5
"""Seeds below which an interval says nothing; the ledger asks for more (:mod:`indattn.claims.verdicts`)."""

CHOICES = {
    "self_attention": "model.self_attention",
    "norm": "model.norm",
    "train_size": "task.train_size",
    "steps": "training.steps",
    "centre_update": "model.centre_update",
}
"""What makes a reading, by the column that says it; the last is of indirect attention alone."""

#: Follows from the number of steps.
IMPLIED = ("training.evaluate_every",)

BETTER, WORSE, OPEN = "#7DB8E0", "#F0A66B", "#E8E8E8"
#: Colours of cells, blue and orange for all kinds of colour vision; what the interval leaves open is grey.
COLOURS = {"higher": BETTER, "lower": WORSE, "undecided": OPEN}


MINUS = "\N{MINUS SIGN}"


def readings(plotter: Plotter) -> None:
    """A table and a figure of the paper's two tasks without noise."""
    table = by_reading(plotter.table)
    if table.empty:
        return
    plotter.save_table(table, "readings")
    plotter.save_figure(grid(table), "readings")


def by_reading(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a task and reading: mean accuracies, and differences of indirect attention to the others.

    Differences are paired by seed, with Student's t interval (95%, not corrected for their number). Of runs that differ
    in more than a reading (learning rates, sizes) only those nearest to the defaults count, and of those the most.

    Args:
        runs: :func:`indattn.plot.scores.run_table`.

    Returns:
        columns ``task``, those of :data:`CHOICES`; for each model its accuracy and ``<model>_seeds``; for each of
        :data:`OTHERS` ``less_<model>`` with ``_low``, ``_high``, ``_seeds``; ``order`` (:func:`order`).
    """
    if runs.empty:
        return pd.DataFrame()
    runs = runs[runs["task"].isin(PAPER_TASKS) & (runs["noise"] == 0) & runs["model"].isin(("indirect", *OTHERS))]
    rows: list[dict[str, Any]] = []
    for task in (name for name in PAPER_TASKS if name in set(runs["task"])):
        of_task = _plain(runs[runs["task"] == task], task)
        shared = [choice for choice in CHOICES if choice != "centre_update"]
        for key, group in of_task.groupby(shared, sort=False):
            for update, indirect in group[group["model"] == "indirect"].groupby("centre_update", sort=False):
                row = {"task": task, **dict(zip(shared, key, strict=True)), "centre_update": update}
                rows.append(row | _compared(indirect, group))
    table = pd.DataFrame(rows)
    if table.empty or table[[f"less_{other}_seeds" for other in OTHERS]].eq(0).all(axis=None):
        return pd.DataFrame()
    descending = {"self_attention": "false true", "norm": "pre post", "centre_update": "additive none"}

    def place(column: pd.Series) -> Any:
        if column.name in descending:
            return column.map({value: i for i, value in enumerate(descending[str(column.name)].split())})
        return column.map(PAPER_TASKS.index) if column.name == "task" else column

    by = ["task", "train_size", "steps", "self_attention", "norm", "centre_update"]
    return table.sort_values(by, key=place, ignore_index=True)


def _plain(runs: pd.DataFrame, task: str) -> pd.DataFrame:
    """Runs of a task with their choices, without those that differ in something else from the plainest."""
    default = default_settings(task)
    no_bias = {s for s in default if s.startswith("bias=")}  # of models without one: what indirect has by default
    choices, others = [], []
    for path in runs["path"]:
        flat = flat_identity(OmegaConf.to_container(Run(Path(path)).config(), resolve=True))
        values = {column: setting(key, flat[key]).partition("=")[2] for column, key in CHOICES.items()}
        choices.append({**values, "steps": flat["training.steps"], "train_size": _size(flat["task.train_size"])})
        rest = {setting(key, flat[key]) for key in flat.keys() - {*CHOICES.values(), *IMPLIED}}
        if flat["model.bias"] == "none":
            rest = rest - {"bias=none"} | no_bias
        others.append(frozenset(rest))
    counts = pd.Series(others).value_counts()
    plainest = min(counts.index, key=lambda rest: (len(rest - default), -counts[rest], sorted(rest)))
    table = pd.concat([runs.drop(columns="steps").reset_index(drop=True), pd.DataFrame(choices)], axis=1)
    return table[[rest == plainest for rest in others]]


def _size(value: Any) -> str:
    return "fresh" if value is None else str(value)


def _compared(indirect: pd.DataFrame, group: pd.DataFrame) -> dict[str, Any]:
    scores = {"indirect": indirect, **{other: group[group["model"] == other] for other in OTHERS}}
    by_seed = {model: of.set_index("seed")["accuracy"] for model, of in scores.items()}
    for model, of in by_seed.items():
        if of.index.has_duplicates:
            raise UserError(
                f"readings: two runs of {model}, seed {of.index[of.index.duplicated()][0]}, are of one reading"
            )
    row: dict[str, Any] = {}
    for model, of in by_seed.items():
        row |= {model: of.mean(), f"{model}_seeds": len(of)}
    for other in OTHERS:
        difference = (by_seed["indirect"] - by_seed[other]).dropna()
        name = f"less_{other}"
        row[f"{name}_seeds"] = len(difference)
        if len(difference):
            interval = mean_interval(difference.tolist())
            row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        else:
            row |= {name: np.nan, f"{name}_low": np.nan, f"{name}_high": np.nan}
    return row | {"order": order(row)}


def sign(low: float, high: float, seeds: int) -> str:
    """``higher`` or ``lower``, where an interval leaves out zero and is of enough seeds; else ``undecided``."""
    if seeds < LEAST:
        return "undecided"
    return "higher" if low > 0 else "lower" if high < 0 else "undecided"


def _sign(row: Any, other: str) -> str:
    return sign(*(row[f"less_{other}_{end}"] for end in ("low", "high", "seeds")))


def order(row: Any) -> str:
    """Whether indirect attention is above both others: ``holds``, ``fails`` (it is below one) or ``undecided``."""
    signs = {_sign(row, other) for other in OTHERS}
    return "holds" if signs == {"higher"} else "fails" if "lower" in signs else "undecided"


def grid(table: pd.DataFrame) -> Figure:
    """Readings against differences of indirect attention to each other model, coloured by what their intervals say.

    Args:
        table: :func:`by_reading`.
    """
    columns = ["train_size", "steps", "self_attention", "norm", "centre_update"]
    tasks = [task for task in PAPER_TASKS if task in set(table["task"])]
    keys = list(dict.fromkeys(map(tuple, table[columns].to_numpy().tolist())))
    at = {(row["task"], *(row[column] for column in columns)): row for row in table.to_dict("records")}
    heads = ("training pairs", "self-attention", "norm", "centre update")
    places, width = (0.0, 1.75, 2.95, 3.65), 4.75
    cell, verdict = 1.95, 0.95
    across = width + len(tasks) * (2 * cell + verdict + 0.2)
    with plt.rc_context({**LINES, "axes.grid": False}):
        figure, axes = plt.subplots(figsize=(across * 0.98, 0.36 * len(keys) + 1.75), layout="constrained")
        axes.set(xlim=(0, across), ylim=(len(keys) + 0.1, -1.75))
        axes.set_axis_off()
        for place, head in zip(places, heads, strict=True):
            axes.text(place, -0.25, head, va="center", fontsize=8.5, weight="bold")
        for number, key in enumerate(keys):
            size, steps, attention, norm, update = key
            pairs = f"{'fresh' if size == 'fresh' else f'{size} fixed'}, {steps} steps"
            for place, text in zip(
                places, (pairs, {"true": "on", "false": "off"}[attention], norm, update), strict=True
            ):
                axes.text(place, number + 0.5, text, va="center", fontsize=8.5)
            if number and key[:3] != keys[number - 1][:3]:
                axes.plot([0, across], [number, number], color="#888888", linewidth=0.8)
        for block, task in enumerate(tasks):
            left = width + block * (2 * cell + verdict + 0.2)
            axes.text(left + cell, -1.25, task.replace("_", " "), ha="center", fontsize=10, weight="bold")
            for number, other in enumerate(OTHERS):
                middle = left + (number + 0.5) * cell
                axes.text(
                    middle, -0.25, f"indirect {MINUS} {other}", ha="center", va="center", fontsize=8.5, weight="bold"
                )
            axes.text(left + 2 * cell + 0.08, -0.42, "paper's\norder", va="center", fontsize=8.5, weight="bold")
            for number, key in enumerate(keys):
                if row := at.get((task, *key)):
                    _cells(axes, row, left, number, cell)
        names = {"higher": "indirect higher", "lower": "indirect lower", "undecided": "undecided"}
        figure.legend(
            [Patch(facecolor=COLOURS[name], edgecolor="white") for name in names],
            names.values(),
            loc="outside lower center",
            ncol=3,
        )
        figure.suptitle(
            "Figure 2 of the paper by reading: difference in test accuracy (points), mean over paired seeds,\n"
            f"95% interval, (seeds; fewer than {LEAST} decide nothing); order holds in {_count(table)}",
            fontsize=11,
        )
    return figure


def _cells(axes: Any, row: Any, left: float, number: int, cell: float) -> None:
    for i, other in enumerate(OTHERS):
        count = row[f"less_{other}_seeds"]
        if not count:
            axes.text(left + (i + 0.5) * cell, number + 0.5, "no runs", ha="center", va="center", fontsize=8)
            continue
        box = Rectangle(
            (left + i * cell, number), cell, 1, facecolor=COLOURS[_sign(row, other)], edgecolor="white", linewidth=1.5
        )
        axes.add_patch(box)
        mean, low, high = (100 * row[f"less_{other}{end}"] for end in ("", "_low", "_high"))
        interval = "" if np.isnan(low) else f" [{low:.1f}, {high:.1f}]"
        text = f"{mean:+.1f}{interval} ({count})".replace("-", MINUS)
        axes.text(left + (i + 0.5) * cell, number + 0.5, text, ha="center", va="center", fontsize=7.8)
    holds = row["order"] == "holds"
    axes.text(
        left + 2 * cell + 0.08,
        number + 0.5,
        row["order"],
        va="center",
        fontsize=8.5,
        weight="bold" if holds else "normal",
        color="#000000" if holds else "#555555",
    )


def _count(table: pd.DataFrame) -> str:
    return f"{int((table['order'] == 'holds').sum())} of {len(table)}"
