"""What alignment runs left of words' errors, and scores of other aligners, as figures and tables read them.

The corpus that a run is tested on when it ends is the one it was trained on; others come from its ``evaluations/``
(test seed 0). No weights are read.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from indattn.alignment.scores import METRICS, TOLERANCES
from indattn.errors import UserError
from indattn.plot.plotter import Plotter
from indattn.plot.scores import run_table
from indattn.runs import Run
from indattn.statistics import resampled_medians

__all__ = ["GRID", "KEYS", "Placed", "alignment_runs", "baselines", "is_alignment", "placed"]

GRID = np.unique(np.concatenate([np.logspace(0, 3, 61), TOLERANCES]))
"""Errors in ms at which cumulative shares are taken."""

KEYS = ["data", "formulation", "noise", "trained_data", "trained_noise", "variant"]
"""Labels of a test but for the model and the seed."""


@dataclass(frozen=True)
class Placed:
    """One run's errors in one test.

    Attributes:
        labels: ``model``, ``seed`` and :data:`KEYS`: the corpus and the level of the test, those of the training, the
            formulation, and in ``variant`` what else the run differs in; empty for the nearest to the defaults.
        metrics: all of :data:`~indattn.alignment.scores.METRICS`.
        start: ``(words,)`` signed errors of said words' starts in ms, NaN where a word was not placed.
        utterance: ``(words,)``, ascending.
        cost: ``parameters`` and ``seconds`` of the run.
        where: the file that says so.
    """

    labels: dict[str, Any]
    metrics: dict[str, float]
    start: NDArray[np.float64]
    utterance: NDArray[np.int64]
    cost: dict[str, float]
    where: Path

    @functools.cached_property
    def errors(self) -> NDArray[np.float64]:
        """``(words,)`` absolute errors of starts in ms.

        A word that was not placed has the length of its recording for an error. A result keeps these in its mean alone:
        here each has what they are on average.
        """
        errors = np.abs(self.start)
        lost = np.isnan(errors)
        if lost.any():
            errors[lost] = (self.metrics["start_mean_ms"] * len(errors) - errors[~lost].sum()) / lost.sum()
        return errors

    @functools.cached_property
    def medians(self) -> NDArray[np.float64]:
        """``(draws,)`` medians of :attr:`errors` over utterances drawn with replacement."""
        return resampled_medians(self.errors, self.utterance)

    @functools.cached_property
    def shares(self) -> NDArray[np.float64]:
        """Share of said words whose start is within each error of :data:`GRID`; those not placed never are."""
        placed = np.sort(np.abs(self.start[~np.isnan(self.start)]))
        return np.searchsorted(placed, GRID, side="right") / len(self.start)


def is_alignment(run: Run) -> bool:
    """Whether a finished run says when words are."""
    return "start_median_ms" in run.result()["test"]


@dataclass
class Corpora:
    """Names of corpora in tables and files: the last part of where they lie, told apart by their digests."""

    names: dict[str, str] = field(default_factory=dict)

    def name(self, where: dict[str, str]) -> str:
        """Of ``data`` and ``fingerprint``."""
        digest = where["fingerprint"]
        last = Path(where["data"]).name or where["data"]
        return self.names.setdefault(digest, f"{last}-{digest[:6]}" if last in self.names.values() else last)


def placed(plotter: Plotter) -> list[Placed]:
    """Every test of the alignment runs that are selected.

    Raises:
        UserError: if a result has not the errors of each word.
    """
    corpora, found, rows = Corpora(), [], []
    for task, of_task in alignment_runs(plotter).groupby("task"):
        configs = {path: Run(Path(path)).config() for path in of_task["path"]}
        choices = [[configs[path].task[key] for path in of_task["path"]] for key in ("data", "formulation")]
        for _, group in of_task.groupby(choices):  # each with variants of its own
            table = run_table([Run(Path(path)) for path in group["path"]])
            for name, _, of in plotter.variants(str(task), table, levels=1):
                variant = name.removeprefix(str(task)).removeprefix("-")
                rows += [({**row, "variant": variant}, configs[row["path"]]) for row in of.to_dict("records")]
    results = [Run(Path(row["path"])).result() for row, _ in rows]
    for result in results:
        corpora.name(result["corpus"])  # before others of the same name
    for (row, config), result in zip(rows, results, strict=True):
        run = Run(Path(row["path"]))
        trained = {
            **{key: row[key] for key in ("model", "seed", "variant")},
            "formulation": config.task.formulation,
            "trained_data": corpora.name(result["corpus"]),
            "trained_noise": row["noise"],
        }
        own = {**trained, "data": trained["trained_data"], "noise": row["noise"]}
        cost = {key: result[key] for key in ("parameters", "seconds")}
        found.append(_placed(own, result["test"], result["per_example"], cost, run.path / "result.json"))
        for evaluation in run.evaluations():
            where = evaluation.get("corpus", result["corpus"])
            here = {**trained, "data": corpora.name(where), "noise": float(evaluation["noise"])}
            if evaluation.get("skip") is not None:
                here["variant"] = ", ".join(filter(None, [row["variant"], f"skip={evaluation['skip']:g}"]))
            if evaluation["test_seed"] == 0 and here != own:
                file = run.path / "evaluations"
                found.append(_placed(here, evaluation, evaluation["per_example"], cost, file))
    return found


def _placed(labels: dict[str, Any], metrics: dict[str, Any], words: Any, cost: dict[str, float], where: Path) -> Placed:
    try:
        start = np.array(words["start"], float)  # null is NaN
        utterance = np.array(words["utterance"], np.int64)
        numbers = {name: float(metrics[name]) for name in METRICS}
        if start.shape != utterance.shape or not len(start):
            raise ValueError(f"{len(start)} starts of {len(utterance)} words")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: no errors of words ({error}); train or evaluate the run again") from error
    return Placed(labels, numbers, start, utterance, cost, where)


def alignment_runs(plotter: Plotter) -> pd.DataFrame:
    """The selection's rows of runs that say when words are."""
    table = plotter.table
    first = {task: is_alignment(Run(Path(path))) for task, path in table.groupby("task")["path"].first().items()}
    return table[table["task"].map(first).astype(bool)]


def baselines(file: Path) -> pd.DataFrame:
    """Scores of other aligners, as ``alignment-baselines.csv`` has them; no rows if there is no such file.

    Returns:
        columns ``data``, ``baseline``, ``noise``, and :data:`~indattn.alignment.scores.METRICS`, each with ``_low`` and
        ``_high``.

    Raises:
        UserError: if a column is missing, or a number is none.
    """
    numbers = ["noise", *(f"{name}{end}" for name in METRICS for end in ("", "_low", "_high"))]
    columns = ["data", "baseline", *numbers]
    if not file.is_file():
        return pd.DataFrame(columns=columns)
    try:
        table = pd.read_csv(file)
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not a table of baselines ({str(error).splitlines()[0]})") from error
    for column in columns:
        if column not in table:
            raise UserError(f"{file}: no column {column!r}; it has {', '.join(map(str, table.columns[:4]))}, ...")
    for column in numbers:
        values = pd.to_numeric(table[column], errors="coerce")
        wrong = np.flatnonzero(values.isna() & table[column].notna())
        if len(wrong):
            value = table[column].iloc[wrong[0]]
            raise UserError(f"{file}, row {wrong[0] + 2}: {column}={value!r} is not a number")
        table[column] = values
    return table[columns]
