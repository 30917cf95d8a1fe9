"""Scores against noise, as the page's JSON: a panel for each task, kind of misalignment and variant.

Runs are those of the record; of a task that the record lacks, those of the tables that ``indattn plot noise`` wrote.
Folders of runs are not read: they are nobody else's.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from indattn.errors import UserError
from indattn.figures import STYLES, style
from indattn.statistics import mean_interval
from indattn.store import load_records
from indattn.variants import flat_identity, variants

__all__ = ["Panel", "noise_panels"]

Panel = dict[str, Any]

COLUMNS = ["task", "model", "noise", "seed", "kind", "metric", "accuracy", "chance", "ceiling"]
DASHES = {"-": "", "--": "7 4", "-.": "8 3 2 3", ":": "2 3"}


def noise_panels(results_dir: Path) -> list[Panel]:
    """Panels with at least two levels of noise, by task, kind and variant.

    A panel has ``title``, ``subtitle``, ``metric``, ``noise`` (levels), ``chance`` and ``ceiling`` (one a level, null
    where none is known) and ``models``, each ``name``, ``colour``, ``dash`` and ``points``: ``noise``, ``mean``,
    ``low`` and ``high`` (95% interval over seeds, null for one seed, cut to 0 and 1) and ``seeds`` (scores by seed).

    Raises:
        UserError: if the record or a table is damaged.
    """
    recorded = _recorded(results_dir)
    tables = [table for table in _tables(results_dir) if not set(table["task"]) & set(recorded["task"])]
    panels = []
    for runs in [recorded, *tables]:
        for (task, kind, variant), group in runs.groupby(["task", "kind", "variant"], sort=True):
            if group["noise"].nunique() > 1:
                panels.append(_panel(str(task), str(kind), str(variant), group))
    return sorted(panels, key=lambda panel: (panel["title"], panel["subtitle"]))


def _recorded(results_dir: Path) -> pd.DataFrame:
    records = [record for _, record in sorted(load_records(results_dir).items())]
    rows, settings = [], []
    for record in records:
        result = record["result"]
        rows.append(
            {key: {"metric": "accuracy", **result, **record}.get(key) for key in COLUMNS}
            | {"metric": result.get("metric", "accuracy")}
        )
        settings.append(flat_identity(record["config"]))
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["variant"] = variants(table, settings) if rows else []
    return table


def _tables(results_dir: Path) -> list[pd.DataFrame]:
    found = []
    for file in sorted((results_dir / "tables").glob("noise-*-runs.csv")):
        try:
            table = pd.read_csv(file)
            own = file.name.removeprefix("noise-").removesuffix("-runs.csv").removeprefix(table["task"].iloc[0])
            table = table.assign(metric=table.get("metric", "accuracy"), variant=own.removeprefix("-"))
            found.append(table[[*COLUMNS, "variant"]])
        except (ValueError, KeyError, IndexError) as error:
            raise UserError(f"{file} is damaged ({error}); `indattn plot noise` writes it anew") from error
    return found


def _panel(task: str, kind: str, variant: str, runs: pd.DataFrame) -> Panel:
    order = list(STYLES)
    names = sorted(runs["model"].unique(), key=lambda m: (order.index(m) if m in order else len(order), m))
    levels = sorted(float(level) for level in runs["noise"].unique())
    models = []
    for name in names:
        colour, _, line = style(name, names)
        points = []
        for level, group in runs[runs["model"] == name].groupby("noise", sort=True):
            interval = mean_interval(group["accuracy"].tolist())
            seeds = sorted(zip(group["seed"].astype(int).tolist(), group["accuracy"].tolist(), strict=True))
            points.append(
                {
                    "noise": float(str(level)),
                    "mean": _rounded(interval.mean),
                    "low": _rounded(max(0.0, interval.low) if interval.count > 1 else None),
                    "high": _rounded(min(1.0, interval.high) if interval.count > 1 else None),
                    "seeds": [[seed, _rounded(score)] for seed, score in seeds],
                }
            )
        models.append({"name": name, "colour": _colour(colour), "dash": _dash(line), "points": points})
    return {
        "title": task.replace("_", " "),
        "subtitle": ", ".join(part for part in (f"kind {kind}", variant) if part),
        "metric": str(runs["metric"].iloc[0]),
        "noise": levels,
        "chance": _by_level(runs, "chance", levels),
        "ceiling": _by_level(runs, "ceiling", levels),
        "models": models,
    }


def _by_level(runs: pd.DataFrame, column: str, levels: list[float]) -> list[float | None]:
    first = runs.assign(value=runs[column].astype(float)).groupby("noise")["value"].first()
    return [_rounded(float(first[level])) for level in levels]


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(float(value), 5)


def _colour(colour: str) -> str:
    return "currentColor" if colour == "#000000" else colour  # black is no colour on a dark page


def _dash(line: Any) -> str:
    return DASHES[line] if isinstance(line, str) else " ".join(f"{1.8 * part:g}" for part in line[1])
