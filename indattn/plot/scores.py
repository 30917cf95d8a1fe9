"""Tables of finished runs: their scores, learning curves, means over seeds and differences paired by seed. No torch."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from indattn.runs import Run
from indattn.statistics import interquartile_mean, mean_interval
from indattn.variants import flat_identity, variants

__all__ = ["curve_table", "paired", "run_table", "steps_taken", "summary"]


def run_table(runs: list[Run]) -> pd.DataFrame:
    """One row a finished run: labels, scores, and in ``variant`` what else tells its configuration apart."""
    rows, settings = [], []
    for run in runs:
        result = run.result()
        rows.append(
            {
                **run.labels,
                "kind": result["kind"],
                "metric": result.get("metric", "accuracy"),
                "accuracy": result["test"]["accuracy"],
                "exact": result["test"].get("exact"),
                "validation_accuracy": result["validation"]["accuracy"],
                "train_loss": result["train_loss"],
                "steps_to_0.9": result["steps_to_0.9"],
                "steps": result["steps"],
                "chance": result["chance"],
                "validation_chance": result.get("validation_chance", result["chance"]),
                "ceiling": result["ceiling"],
                "parameters": result["parameters"],
                "seconds": result["seconds"],
                "path": str(run.path),
            }
        )
        settings.append(flat_identity(OmegaConf.to_container(run.config(), resolve=True)))
    table = pd.DataFrame(rows)
    for column in ("steps_to_0.9", "ceiling"):
        table[column] = table[column].astype(float)
    table["variant"] = variants(table, settings)
    return table


def curve_table(runs: list[Run]) -> pd.DataFrame:
    """One row an evaluation of a run: its labels, ``step``, ``accuracy``, ``loss``, ``train_loss``."""
    rows = [
        {**run.labels, **{key: line[key] for key in ("step", "accuracy", "loss", "train_loss")}}
        for run in runs
        for line in run.metrics()
    ]
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean, 95% interval, interquartile mean and median steps to 0.9 over seeds, for each combination of ``by``."""
    rows = []
    for key, group in table.groupby(by, sort=True):
        interval = mean_interval(group["accuracy"].tolist())
        reached = group["steps_to_0.9"].notna()
        median = group["steps_to_0.9"].fillna(float("inf")).median()
        rows.append(
            {
                **dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True)),
                "seeds": interval.count,
                "accuracy": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "interquartile_mean": interquartile_mean(group["accuracy"].tolist()),
                "reached_0.9": int(reached.sum()),
                "median_steps_to_0.9": None if median == float("inf") else median,
                "steps": group["steps"].max(),
                "chance": group["chance"].iloc[0],
                "ceiling": group["ceiling"].iloc[0],
                "parameters": int(group["parameters"].median()),
                "seconds": group["seconds"].median(),
            }
        )
    return pd.DataFrame(rows)


def paired(table: pd.DataFrame, by: list[str], model: str = "indirect") -> pd.DataFrame:
    """Differences in accuracy between every two models, paired by seed, with a 95% interval.

    ``model`` comes first: it is what others are subtracted from.
    """
    rows = []
    for key, group in table.groupby(by, sort=True):
        wide = group.pivot_table(index="seed", columns="model", values="accuracy")
        order = sorted(wide.columns, key=lambda name: (name != model, name))
        for one, other in itertools.combinations(order, 2):
            difference = (wide[one] - wide[other]).dropna()
            if difference.empty:
                continue
            interval = mean_interval(difference.tolist())
            rows.append(
                {
                    **dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True)),
                    "difference": f"{one} - {other}",
                    "seeds": interval.count,
                    "mean": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                }
            )
    return pd.DataFrame(rows)


def steps_taken(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Steps to 0.9 over seeds of each model, and by those of every other model, paired by seed.

    A row a model has the geometric mean, the least and the most; a row a pair, with the other in ``relative_to``, the
    geometric mean of ratios and its 95% interval. A seed that never got there counts with all its steps, as it does in
    the ledger.
    """
    rows: list[dict[str, Any]] = []
    counted = table.assign(taken=table["steps_to_0.9"].fillna(table["steps"]))
    counted["logs"] = np.log(counted["taken"])
    for key, group in counted.groupby(by, sort=True):
        at = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
        logs = group.pivot_table(index="seed", columns="model", values="logs")
        for model, of_model in group.groupby("model"):
            steps = of_model["taken"]
            own = {"steps": math.exp(of_model["logs"].mean()), "least": steps.min(), "most": steps.max()}
            rows.append({**at, "model": model, "relative_to": None, "seeds": len(steps), **own})
            for other in logs.columns.drop([model]):
                ratios = (logs[model] - logs[other]).dropna()
                if len(ratios):
                    of = mean_interval(ratios.tolist())
                    ratio = {"ratio": math.exp(of.mean), "low": math.exp(of.low), "high": math.exp(of.high)}
                    rows.append({**at, "model": model, "relative_to": other, "seeds": of.count, **ratio})
    return pd.DataFrame(rows)
