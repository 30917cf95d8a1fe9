"""`indattn plot lengths slips`: where models find values still, at other lengths, under other slips. No torch here."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from indattn.figures import LINES, STYLES, shared_legend, style
from indattn.plot.plotter import Plotter
from indattn.runs import Run
from indattn.statistics import mean_interval
from indattn.variants import default_settings

__all__ = ["length_figure", "length_table", "lengths", "slip_figure", "slip_table", "slips"]

KINDS = {
    "shift": "one shift",
    "two_shifts": "two shifts",
    "stretch": "stretched by an\nunknown factor",
    "rate": "another rate\nand a shift",
    "jitter": "neighbours swap,\nand a shift",
    "missing": "lost partners,\nand a shift",
}
"""Kinds of misalignment in figures, in their order."""


def lengths(plotter: Plotter) -> None:
    """Score against the length of sequences: a figure and a table a task, kind and level of runs tested at others."""
    tests = length_tests(plotter.table)
    for (task, kind, noise), of in tests.groupby(["task", "kind", "noise"]) if len(tests) else ():
        name = f"lengths-{task}"
        if tests[["kind", "noise"]].drop_duplicates().shape[0] > 1:
            name += f"-{kind}-noise-{noise:g}"
        table = length_table(of)
        plotter.save_table(table, name)
        plotter.save_table(of, f"{name}-runs")
        figure = length_figure(table, of, f"{task}, {KINDS.get(str(kind), kind)}, noise {noise:g}")
        plotter.save_figure(figure, name)


def length_tests(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a run and length that it was tested at.

    Args:
        runs: rows of :func:`indattn.plot.scores.run_table`; those evaluated with ``indattn evaluate RUN n=...`` count,
            at the level and kind of training, on test split 0.
    """
    rows = []
    for run in runs.to_dict("records"):
        labels = {key: run[key] for key in ("task", "kind", "noise", "seed")}
        labels |= {"model": _called(run), "trained_n": Run(Path(run["path"])).config().task.get("n")}
        rows += [
            labels | {key: scores[key] for key in ("n", "accuracy", "chance")}
            for scores in Run(Path(run["path"])).evaluations()
            if scores.get("n") and (scores["kind"], scores["noise"]) == (run["kind"], run["noise"])
            if not scores["test_seed"]
        ]
    return pd.DataFrame(rows)


def length_table(tests: pd.DataFrame) -> pd.DataFrame:
    """A row a model, its variant and ``n``: mean accuracy over seeds and its 95% interval (Student's t), chance.

    Args:
        tests: :func:`length_tests`, not empty.
    """
    return _summary(tests, ["task", "kind", "noise", "model", "trained_n", "n"])


def _called(run: Any) -> str:
    """A model, and in what its run differs from its defaults and from others, but for kind and level."""
    default = _defaults(run["task"], run["model"])
    variant = [setting for setting in str(run["variant"]).split(", ") if setting and setting not in default]
    return ", ".join([run["model"], *(s for s in variant if not s.startswith("kind=") and not s.endswith("=null"))])


@functools.cache
def _defaults(task: str, model: str) -> set[str]:
    return default_settings(task, model)


def _summary(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    made = []
    for key, of in rows.groupby(keys, sort=True):
        interval = mean_interval(of["accuracy"].tolist())
        scores = {"seeds": interval.count, "accuracy": interval.mean, "low": interval.low, "high": interval.high}
        made.append({**dict(zip(keys, key, strict=True)), **scores, "chance": of["chance"].iloc[0]})
    return pd.DataFrame(made)


def _ordered(models: Any) -> list[str]:
    """Models in the order of :data:`indattn.figures.STYLES`, variants behind them."""
    known = list(STYLES)
    return sorted(set(models), key=lambda m: (m not in STYLES, known.index(m) if m in STYLES else 0, m))


def length_figure(table: pd.DataFrame, tests: pd.DataFrame, title: str) -> Figure:
    """Test accuracy against ``n``, a line a model with its band, a dot a seed; where it was trained, what chance has.

    Variants, where there are some, have a panel of their own.

    Args:
        table: rows of :func:`length_table` of one task, kind and level.
        tests: the rows of :func:`length_tests` behind it.
        title: what is shown.
    """
    models = _ordered(table["model"])
    plain = [model for model in models if ", " not in model]
    panels = {"models": plain, "variants": [model for model in models if model not in plain]}
    panels = {name: of for name, of in panels.items() if of}
    with plt.rc_context(LINES):
        figure, grid = plt.subplots(
            1, len(panels), figsize=(1.6 + 4.8 * len(panels), 4.4), sharey=True, squeeze=False, layout="constrained"
        )
        for axes, (name, shown) in zip(grid[0], panels.items(), strict=True):
            _length_lines(axes, shown, models, table, tests)
            if len(panels) > 1:
                axes.set_title(name)
        grid[0][0].set_ylabel("test accuracy")
        shared_legend(figure, list(grid[0]), columns=3)
        meant = "line: mean over seeds and its 95% interval; small markers: each seed"
        figure.suptitle(f"Longer sequences than trained on: {title}\n({meant})", fontsize=11)
    return figure


def _length_lines(axes: Axes, shown: list[str], models: list[str], table: pd.DataFrame, tests: pd.DataFrame) -> None:
    for model in shown:
        rows = table[table["model"] == model].sort_values("n")
        colour, marker, line = style(model, models)
        axes.plot(rows["n"], rows["accuracy"], color=colour, marker=marker, linestyle=line, label=model)
        seeds = tests[tests["model"] == model]
        axes.plot(seeds["n"], seeds["accuracy"], color=colour, marker=marker, linestyle="", markersize=3, alpha=0.5)
        low, high = rows["low"].clip(0), rows["high"].clip(upper=1)
        axes.fill_between(rows["n"], low, high, color=colour, alpha=0.1, linewidth=0)
    chance = table.drop_duplicates("n").sort_values("n")
    axes.plot(
        chance["n"], chance["chance"], color="#666666", linestyle=":", linewidth=1.1, label="best guess without context"
    )
    axes.axhline(1, color="#666666", linewidth=1.1, linestyle="--", label="best achievable")
    for n in table["trained_n"].unique():
        axes.axvline(n, color="#AAAAAA", linewidth=0.9, label="length in training")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(table["n"].unique()), [str(n) for n in sorted(table["n"].unique())])
    axes.minorticks_off()
    axes.set(xlabel="n, symbols in the context", ylim=(0, 1.03))


def slips(plotter: Plotter) -> None:
    """Scores and steps to 0.9 under each kind of slip, a figure and a table a task and level of at least two kinds."""
    if plotter.table.empty:
        return
    for (task, noise), runs in plotter.table.groupby(["task", "noise"]):
        if runs["kind"].nunique() < 2 or not set(runs["kind"]) <= set(KINDS):
            continue
        named = runs.assign(model=[_called(run) for run in runs.to_dict("records")])
        table = slip_table(named)
        name = f"slips-{task}-noise-{noise:g}"
        plotter.save_table(table, name)
        plotter.save_figure(slip_figure(table, named, f"{task}, noise {noise:g}"), name)


def slip_table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a kind and model: mean accuracy with its interval, steps to 0.9, chance and ceiling."""
    rows = _summary(runs, ["task", "noise", "kind", "model"])
    of = {key: group for key, group in runs.groupby(["kind", "model"])}
    for i, row in rows.iterrows():
        group = of[row["kind"], row["model"]]
        steps = group["steps_to_0.9"].astype(float)
        rows.loc[i, ["reached_0.9", "median_steps_to_0.9"]] = steps.notna().sum(), steps.fillna(np.inf).median()
        rows.loc[i, "ceiling"] = group["ceiling"].iloc[0]
    rows["median_steps_to_0.9"] = rows["median_steps_to_0.9"].replace(np.inf, np.nan)
    order = {kind: place for place, kind in enumerate(KINDS)}
    return rows.sort_values("model").sort_values("kind", key=lambda kinds: kinds.map(order), kind="stable")


def slip_figure(table: pd.DataFrame, runs: pd.DataFrame, title: str) -> Figure:
    """Test accuracy, a panel a kind and a row a model: seeds, their mean and its interval, chance and ceiling.

    Args:
        table: :func:`slip_table`.
        runs: the runs.
        title: what is shown.
    """
    kinds = [kind for kind in KINDS if kind in set(table["kind"])]
    models = _ordered(table["model"])
    with plt.rc_context(LINES):
        figure, panels = plt.subplots(
            1, len(kinds), figsize=(1.7 * len(kinds) + 1.6, 0.42 * len(models) + 1.9), sharey=True, layout="constrained"
        )
        for axes, kind in zip(panels, kinds, strict=True):
            rows = table[table["kind"] == kind].set_index("model")
            for place, model in enumerate(models):
                if model not in rows.index:
                    continue
                colour, marker, _ = style(model, models)
                row = rows.loc[model]
                seeds = runs[(runs["kind"] == kind) & (runs["model"] == model)]["accuracy"]
                axes.scatter(seeds, np.full(len(seeds), place), s=10, color=colour, alpha=0.4, linewidth=0)
                axes.plot([max(row["low"], 0), min(row["high"], 1)], [place, place], color=colour, linewidth=2)
                axes.plot(row["accuracy"], place, color=colour, marker=marker, markersize=6, clip_on=False)
            for key, line, label in (
                ("chance", ":", "best guess without context"),
                ("ceiling", "--", "best achievable"),
            ):
                axes.axvline(rows[key].iloc[0], color="#666666", linestyle=line, linewidth=1.1, label=label)
            axes.set_title(KINDS[kind], fontsize=9)
            axes.set(xlim=(0, 1.03), ylim=(len(models) - 0.5, -0.5), xticks=(0, 0.5, 1))
            axes.set_yticks(range(len(models)), [model.replace(", ", ",\n") for model in models])
        shared_legend(figure, list(panels[:1]))
        panels[len(panels) // 2].set_xlabel("test accuracy", fontsize=10)
        figure.suptitle(f"Other ways to slip: {title}\n(dots: seeds; mean over seeds, 95% interval)", fontsize=11)
    return figure
