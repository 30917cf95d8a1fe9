"""`indattn plot alignment`: errors of words' times of alignment runs, and paired differences between models."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from indattn.alignment.scores import METRICS
from indattn.errors import UserError
from indattn.plot import alignment_figures
from indattn.plot.alignment_figures import FORMULATIONS
from indattn.plot.alignment_results import GRID, KEYS, Placed, baselines, placed
from indattn.plot.plotter import Plotter
from indattn.statistics import crossed_interval, crossed_quantiles, mean_interval, probability_of_improvement
from indattn.tables import slug

__all__ = ["COMPARED", "CROSSED", "Numbers", "alignment", "cumulative", "differences", "error_figures", "summary"]

COMPARED = ("start_median_ms", "start_mean_ms")
"""Metrics of which differences are taken."""

CROSSED = (*COMPARED, "start_within_50")
"""Metrics whose intervals are also over seeds and utterances."""

REFERENCES = ("standard", "cross")
"""Models that all others are compared with; ``indirect`` is compared with all."""


# Tables ------------------------------------------------------------------------------------------------------


def summary(found: Iterable[Placed]) -> pd.DataFrame:
    """A row a test and model: means over seeds of every metric and their 95% intervals (Student's t).

    Of :data:`CROSSED` also the interval over seeds and utterances, both resampled: ``_crossed_low``, ``_crossed_high``.
    """
    rows = []
    for key, of in _grouped(found, [*KEYS, "model"]):
        row = dict(zip([*KEYS, "model"], key, strict=True)) | {"seeds": len(of)}
        crossed = _crossed(of)
        for name in METRICS:
            interval = mean_interval([one.metrics[name] for one in of])
            row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
            if name in crossed:
                row |= {f"{name}_crossed_low": crossed[name][0], f"{name}_crossed_high": crossed[name][1]}
        row |= {name: float(np.median([one.cost[name] for one in of])) for name in ("parameters", "seconds")}
        rows.append(row)
    table = pd.DataFrame(rows)
    first = ["data", "formulation", "model", "noise"]
    return table[[*first, *(column for column in table if column not in first)]]


def _crossed(of: list[Placed]) -> dict[str, tuple[float, float]]:
    """Intervals of :data:`CROSSED`."""
    words = _same_words(of)
    errors = np.stack([one.errors for one in of])
    within = np.stack([np.abs(one.start) <= 50 for one in of])  # NaN is not
    low, high = crossed_interval(np.stack([errors, within]), words)
    return {
        "start_median_ms": crossed_quantiles(np.stack([one.medians for one in of])),
        "start_mean_ms": (low[0], high[0]),
        "start_within_50": (low[1], high[1]),
    }


def _same_words(of: list[Placed]) -> NDArray[np.int64]:
    """The utterances of the words that all these tests have.

    Raises:
        UserError: if they have not the same.
    """
    first = of[0]
    for one in of:
        if not np.array_equal(one.utterance, first.utterance):
            raise UserError(f"{one.where} is of other words than {first.where}; train or evaluate one of them again")
    return first.utterance


def differences(found: Iterable[Placed]) -> pd.DataFrame:
    """Errors in ms of every model less those of each reference, and of ``indirect`` less every model, paired by seed.

    Columns ``mean``, ``low``, ``high``: over seeds (Student's t). ``crossed_low``, ``crossed_high``: over seeds and
    utterances, both resampled. ``improvement``: part of the pairs of runs in which ``model`` errs less than ``less``.
    """
    rows = []
    for key, of in _grouped(found, KEYS):
        models = {name: {one.labels["seed"]: one for one in runs} for (name,), runs in _grouped(of, ["model"])}
        wanted = [(model, less) for less in REFERENCES for model in models] + [("indirect", less) for less in models]
        for model, less in dict.fromkeys(wanted):
            if model == less or not {model, less} <= set(models):
                continue
            pairs = [(models[model][seed], models[less][seed]) for seed in sorted({*models[model]} & {*models[less]})]
            if not pairs:
                continue
            words = _same_words([one for pair in pairs for one in pair])
            errors = crossed_interval(np.stack([one.errors - other.errors for one, other in pairs]), words)
            medians = crossed_quantiles(np.stack([one.medians - other.medians for one, other in pairs]))
            for measure, (crossed_low, crossed_high) in zip(COMPARED, (medians, tuple(errors)), strict=True):
                interval = mean_interval([one.metrics[measure] - other.metrics[measure] for one, other in pairs])
                better, worse = ([one.metrics[measure] for one in models[name].values()] for name in (less, model))
                rows.append(
                    {
                        **dict(zip(KEYS, key, strict=True)),
                        "measure": measure,
                        "model": model,
                        "less": less,
                        "seeds": len(pairs),
                        "mean": interval.mean,
                        "low": interval.low,
                        "high": interval.high,
                        "crossed_low": crossed_low,
                        "crossed_high": crossed_high,
                        "improvement": probability_of_improvement(better, worse),
                    }
                )
    columns = [*KEYS, "measure", "model", "less", "seeds", "mean", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "crossed_low", "crossed_high", "improvement"])


def cumulative(found: Iterable[Placed]) -> pd.DataFrame:
    """A row a test, model and error of :data:`GRID`: ``error_ms``, mean ``share`` over seeds, ``low``, ``high``."""
    rows = []
    for key, of in _grouped(found, [*KEYS, "model"]):
        labels = dict(zip([*KEYS, "model"], key, strict=True)) | {"seeds": len(of)}
        for error, shares in zip(GRID, np.stack([one.shares for one in of], axis=1), strict=True):
            interval = mean_interval(shares.tolist())
            rows.append(
                {**labels, "error_ms": error, "share": interval.mean, "low": interval.low, "high": interval.high}
            )
    return pd.DataFrame(rows)


def _grouped(found: Iterable[Placed], keys: list[str]) -> Iterator[tuple[tuple[Any, ...], list[Placed]]]:
    order = list(FORMULATIONS)

    def key(one: Placed) -> tuple[Any, ...]:
        return tuple(one.labels[name] for name in keys)

    def sort_key(one: Placed) -> tuple[Any, ...]:
        return tuple((order.index(value), "") if value in order else (-1, value) for value in key(one))

    for value, group in itertools.groupby(sorted(found, key=sort_key), key):
        yield value, sorted(group, key=lambda one: one.labels["seed"])


# Commands ----------------------------------------------------------------------------------------------------


@dataclass
class Numbers:
    """The tests of a selection, and the tables of them; read once a command."""

    found: list[Placed]

    @classmethod
    def of(cls, plotter: Plotter) -> Numbers:
        """Those of a plotter's selection."""
        return plotter.once(cls._read)

    @classmethod
    def _read(cls, plotter: Plotter) -> Numbers:
        return cls(placed(plotter) if len(plotter.table) else [])

    @functools.cached_property
    def summary(self) -> pd.DataFrame:
        """:func:`summary`."""
        return summary(self.found)


def parts(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Of each corpus of training and variant: its name in files, its name in titles, its rows."""
    for names, of in table.groupby(["trained_data", "variant"]):
        there = [str(name) for name in names if name]
        yield slug("-".join(there)), ", ".join(there), of


def alignment(plotter: Plotter) -> None:
    """Tables of all alignment runs that are selected, errors against noise, cumulative shares."""
    numbers = Numbers.of(plotter)
    if not numbers.found:
        return
    plotter.save_plain(numbers.summary, "alignment")
    plotter.save_plain(differences(numbers.found), "alignment-differences")
    error_figures(plotter)
    beside = baselines(plotter.out / "tables" / "alignment-baselines.csv")
    for name, title, of in parts(cumulative(numbers.found)):
        own = of[(of["data"] == of["trained_data"]) & _matched(of)]
        if len(own):  # a variant may be of another corpus alone
            plotter.save_figure(alignment_figures.cumulative_levels(own, beside, title), f"alignment-cumulative-{name}")
            plotter.save_plain(own, f"alignment-cumulative-{name}")
        for formulation, tests in of.groupby("formulation"):
            if tests["data"].nunique() > 1:
                stem = f"alignment-corpora-{name}-{formulation}"
                said = f"trained on {title}, {formulation}"
                plotter.save_figure(alignment_figures.cumulative_corpora(tests, beside, said), stem)
                plotter.save_plain(tests, stem)


def error_figures(plotter: Plotter) -> None:
    """Errors of word starts against noise, once a command: a figure a corpus of training, variant, corpus tested on."""
    numbers = Numbers.of(plotter)
    if not numbers.found:
        return
    beside = baselines(plotter.out / "tables" / "alignment-baselines.csv")
    for name, title, of in parts(numbers.summary):
        for data, tests in of[_matched(of)].groupby("data"):
            own = data == tests["trained_data"].iloc[0]
            stem = f"alignment-error-{name}" if own else f"alignment-error-{name}-on-{slug(str(data))}"
            said = title if own else f"trained on {title}, tested on {data}"
            if all(path.stem != stem for path in plotter.written):
                plotter.save_figure(alignment_figures.error_curves(tests, beside, said), stem)


def _matched(table: pd.DataFrame) -> pd.Series:
    """Whether a test is of the level that the run was trained at."""
    return table["noise"] == table["trained_noise"]
