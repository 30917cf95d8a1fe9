"""What each part of a model is worth: runs that differ from the paper's, or from ours, in one thing. No torch here."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from indattn.errors import UserError
from indattn.figures import LINES
from indattn.plot.plotter import Plotter
from indattn.plot.readings import LEAST, sign
from indattn.runs import Run
from indattn.statistics import mean_interval
from indattn.variants import default_settings, flat_identity, setting

__all__ = ["BASE", "ablations", "changes", "forest", "summary", "unmatched"]

BASE = "as it is"
"""What the others are compared with: the base as it is by default."""

BASES = {"indirect": "the paper's model", "indirect_expected": "expected centres"}
"""Models whose parts are changed one by one, and what figures call them."""

LABELS = {
    "standard": "no bias f (standard)",
    "shared_bias=true": "one f for all layers",
    "centre_update=none": "no centre update",
    "detach_centres=true": "centres detached between layers",
    "learned_queries=false": "queries: content feature only",
    "content_queries=false": "queries: learned part only",
    "self_attention=false": "no self-attention",
    "self_attention=true": "with self-attention",
    "fusion": "fusion of context and content",
    "centres_of=all": "centres shared by the heads",
    "gate=open": "content scores whole beside the bias",
    "gate=closed": "bias alone in the second pass",
    "shift_from=mean": "one shift for all queries",
    "shift_from=output": "shift read from the output",
    "shift_from=none": "no learned shift",
    "pointer=tempered": "pointer of learned sharpness",
    "rate=learned": "learned rate of the centres",
    "carried=true": "centres carried between layers",
    "detach_pointer=true": "no gradient into expected keys",
    "bias=gaussian": "gaussian f",
    "bias=fourier": "fourier f",
    "shift_scale=1.0": "shift in single tokens",
}
"""How changes are called, in the order of figures; others are called by their setting or their model."""

HIGHER, LOWER, OPEN = "#0072B2", "#D55E00", "#777777"


def ablations(plotter: Plotter) -> None:
    """A table and a figure for each task and level at which parts of one of :data:`BASES` were changed one by one."""
    if plotter.table.empty:
        return
    for base, called_base in BASES.items():
        found = {key: of for key, runs in plotter.table.groupby(["task", "noise"]) if len(of := changes(runs, base))}
        for (task, noise), runs in found.items():
            name = f"ablations-{task}" if base == "indirect" else f"ablations-{base}-{task}"
            if sum(other == task for other, _ in found) > 1:
                name += f"-noise-{noise:g}"
            table = summary(runs)
            plotter.save_table(table, name)
            title = f"{str(task).replace('_', ' ')}, noise {noise:g}"
            plotter.save_figure(forest(table, runs, title, called_base), name)
            plotter.save_table(unmatched(runs), f"{name}-unmatched")


def changes(runs: pd.DataFrame, of: str = "indirect") -> pd.DataFrame:
    """Runs of a model and those that differ from it in one thing, which ``change`` names; else none.

    One thing is one setting of the model, or another model whose settings are its own defaults, but for those that the
    base has too. Task, misalignment and training must be the same.

    Args:
        runs: rows of :func:`indattn.plot.scores.run_table` of one task and level.
        of: the model, of :data:`BASES`.

    Raises:
        UserError: if a change has two runs of one seed.
    """
    flat = [flat_identity(OmegaConf.to_container(Run(Path(path)).config(), resolve=True)) for path in runs["path"]]
    models = [{k.removeprefix("model."): v for k, v in one.items() if k.startswith("model.")} for one in flat]
    outside = [json.dumps({k: v for k, v in one.items() if not k.startswith("model.")}, sort_keys=True) for one in flat]
    ours = [i for i, name in enumerate(runs["model"]) if name == of]
    if not ours:
        return pd.DataFrame()
    task = str(runs["task"].iloc[0])
    default = default_settings(task, of)

    def far(i: int) -> tuple[int, int, str]:
        """How far a run is from the defaults; of equals the commonest is nearest."""
        settings = {setting(key, value) for key, value in flat[i].items()}
        alike = sum(models[j] == models[i] and outside[j] == outside[i] for j in ours)
        return len(settings - default), -alike, str(sorted(settings))

    base = min(ours, key=far)
    varied = {k for i in ours for k in models[i] if models[i][k] != models[base].get(k)}
    shared = {setting(key, value) for key, value in flat[base].items()}

    defaults = functools.cache(functools.partial(default_settings, task))

    def own_settings(i: int) -> set[str]:
        """Settings of another model that are not its defaults; its roles name the change."""
        kept = {setting(k, v) for k, v in flat[i].items() if k.startswith("model.") and k != "model.roles"}
        return kept - defaults(str(runs["model"].iloc[i]))

    chosen, named = [], []
    for i, name in enumerate(runs["model"]):
        differing = {k for k in models[i].keys() | models[base].keys() if models[i].get(k) != models[base].get(k)}
        if outside[i] != outside[base]:
            continue
        if name == of and len(differing) <= 1:
            change = next((setting(key, models[i][key]) for key in differing), BASE)
        elif name != of and not differing & varied & models[i].keys() and own_settings(i) <= shared:
            change = _assigned(models[i]["roles"]) if "roles" in models[i] else str(name)
        else:
            continue
        chosen.append(i)
        named.append(change)
    table = runs.iloc[chosen].assign(change=named)
    if (twice := table.duplicated(["change", "seed"])).any():
        row = table[twice].iloc[0]
        raise UserError(f"ablations of {of} on {task}: two runs of seed {row['seed']} are {called(row['change'])}")
    own = set(table["change"][table["model"].isin((of, "assigned"))])
    return table if len(own) > 1 else pd.DataFrame()  # other models alone are no ablation


def _assigned(roles: list[str]) -> str:
    return "q, k, v from " + ", ".join(roles)


def called(change: str) -> str:
    """A change in words."""
    key, _, value = change.partition("=")
    if key in ("heads", "layers"):
        return f"{value} {key.removesuffix('s') if value == '1' else key}"
    return LABELS.get(change, change)


def _place(change: str) -> tuple[bool, int, str, float]:
    """By which changes are ordered: the model as it is first, then as in :data:`LABELS`."""
    known = list(LABELS).index(change) if change in LABELS else len(LABELS)
    key, _, value = change.partition("=")
    return change != BASE, known, key, float(value) if value.replace(".", "", 1).isdigit() else 0.0


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a change: accuracy and steps to 0.9, and the difference to the model as it is paired by seed.

    Intervals are Student's t over seeds (95%, not corrected for their number).

    Args:
        runs: :func:`changes`.
    """
    scores = {str(change): of.set_index("seed") for change, of in runs.groupby("change")}

    rows = []
    for change in sorted(scores, key=_place):
        of = scores[change]
        accuracy = mean_interval(of["accuracy"].tolist())
        steps = of["steps_to_0.9"].astype(float)
        median = steps.fillna(np.inf).median()
        row: dict[str, Any] = {
            "task": of["task"].iloc[0],
            "noise": of["noise"].iloc[0],
            "change": called(change),
            "setting": change,
            "seeds": accuracy.count,
            "accuracy": accuracy.mean,
            "low": accuracy.low,
            "high": accuracy.high,
            "reached_0.9": int(steps.notna().sum()),
            "median_steps_to_0.9": median if np.isfinite(median) else np.nan,
            "parameters": int(of["parameters"].median()),
        }
        difference = (of["accuracy"] - scores[BASE]["accuracy"]).dropna()
        row["pairs"] = 0 if change == BASE else len(difference)
        if row["pairs"]:
            interval = mean_interval(difference.tolist())
            row |= {"difference": interval.mean, "difference_low": interval.low, "difference_high": interval.high}
        rows.append(row)
    columns = ["difference", "difference_low", "difference_high"]
    return pd.DataFrame(rows).reindex(columns=[*rows[0], *(c for c in columns if c not in rows[0])])


def unmatched(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a change and level of the kind ``unmatched``: test accuracy and loss when symbols of the context lie.

    Level 0 is the test at the end of training. The loss tells how sure a model is of what it cannot know; nothing is
    to be known at level 1, where an answer that says so has the log of the number of classes.

    Args:
        runs: :func:`changes`.
    """
    rows = []
    for row in runs.to_dict("records"):
        run = Run(Path(row["path"]))
        evaluations = [e for e in run.evaluations() if e["kind"] == "unmatched" and not e["test_seed"]]
        test = {"noise": 0.0, "accuracy": row["accuracy"], "loss": run.result()["test"]["loss"]}
        for scores in (test, *evaluations) if evaluations else ():
            rows.append({**{k: row[k] for k in ("task", "change", "chance")}, "level": scores["noise"]} | scores)
    if not rows:
        return pd.DataFrame()
    result = []
    by = {(str(change), level): of for (change, level), of in pd.DataFrame(rows).groupby(["change", "level"])}
    for change, level in sorted(by, key=lambda key: (_place(key[0]), key)):
        of = by[change, level]
        accuracy, loss = (mean_interval(of[score].tolist()) for score in ("accuracy", "loss"))
        result.append(
            {
                "task": of["task"].iloc[0],
                "change": called(change),
                "replaced": level,
                "seeds": accuracy.count,
                "accuracy": accuracy.mean,
                "low": accuracy.low,
                "high": accuracy.high,
                "loss": loss.mean,
                "loss_low": loss.low,
                "loss_high": loss.high,
                "chance": of["chance"].iloc[0],
            }
        )
    return pd.DataFrame(result)


def forest(table: pd.DataFrame, runs: pd.DataFrame, title: str, model: str = BASES["indirect"]) -> Figure:
    """Differences to the model as it is with their intervals, a row a change; beside them when 0.9 was reached.

    Args:
        table: :func:`summary`.
        runs: :func:`changes`.
        title: what is shown.
        model: what the model is called.
    """
    base = table[table["setting"] == BASE].iloc[0]
    rows = table[table["pairs"] > 0].reset_index(drop=True)
    metric = runs["metric"].iloc[0]
    timed = bool(table["reached_0.9"].sum())
    with plt.rc_context(LINES):
        figure, panels = plt.subplots(
            1,
            1 + timed,
            figsize=(9.6 if timed else 7.0, 0.33 * len(rows) + 1.9),
            sharey=True,
            squeeze=False,
            layout="constrained",
            width_ratios=[1.6, 1][: 1 + timed],
        )
        left = panels[0][0]
        places = np.arange(len(rows))
        for place, row in zip(places, rows.to_dict("records"), strict=True):
            low, high = row["difference_low"], row["difference_high"]
            colour, filling = MARKS[sign(low, high, row["pairs"])]
            shown = 100 * np.array([low, row["difference"], high])
            if not np.isnan(low):
                left.plot(shown[[0, 2]], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
            left.plot(
                shown[1],
                place,
                marker="o",
                markersize=6,
                color=colour,
                markerfacecolor=filling,
                clip_on=False,
            )
        left.axvline(0, color="#444444", linewidth=1.1)
        left.set_yticks(
            places,
            [f"{c}  ({n})" for c, n in zip(rows["change"], rows["pairs"], strict=True)],
        )
        left.set(ylim=(len(rows) - 0.4, -0.6), xlabel=f"difference in test {metric} to {model} (points)")
        score = f"{model}: {100 * base['accuracy']:.1f}"
        left.set_title(f"{score}\n(seeds; fewer than {LEAST}: undecided)", fontsize=9)
        if timed:
            _steps(panels[0][1], rows, base, runs, model)
        figure.legend(
            [plt.Line2D([], [], color=c, marker="o", markerfacecolor=f) for c, f in MARKS.values()],
            MARKS,
            loc="outside lower center",
            ncol=3,
        )
        figure.suptitle(f"One change to {model}: {title}\n(paired by seed, 95% interval)", fontsize=11)
    return figure


MARKS = {"lower": (LOWER, LOWER), "undecided": (OPEN, "white"), "higher": (HIGHER, HIGHER)}
"""Colour and filling of what an interval says."""


def _steps(axes: Any, rows: pd.DataFrame, base: pd.Series, runs: pd.DataFrame, model: str) -> None:
    """Steps to 0.9 of every seed, and their medians."""
    limit = float(runs["steps"].max())
    for place, row in enumerate(rows.to_dict("records")):
        steps = runs[runs["change"] == row["setting"]]["steps_to_0.9"].astype(float)
        late = int(steps.isna().sum())
        axes.scatter(steps.dropna(), np.full(len(steps) - late, place), s=14, color="#777777", alpha=0.6, linewidth=0)
        if late:
            axes.scatter([limit * 1.06], [place], s=18, facecolors="none", edgecolors="#777777", clip_on=False)
            axes.annotate(
                str(late), (limit * 1.06, place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8
            )
        if not np.isnan(row["median_steps_to_0.9"]):
            axes.plot(row["median_steps_to_0.9"], place, marker="|", markersize=13, markeredgewidth=2, color="black")
    if not np.isnan(base["median_steps_to_0.9"]):
        axes.axvline(base["median_steps_to_0.9"], color="#444444", linewidth=1.1)
    axes.axvline(limit, color="#AAAAAA", linewidth=0.9, linestyle=":")
    axes.set(xlim=(0, limit * 1.16), xlabel="training steps to 0.9 on validation")
    axes.set_title(f"dots: seeds, hollow: never got there\nbar: median, line: {model}", fontsize=9)
