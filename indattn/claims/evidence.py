"""What a claim's rule finds in runs and tables: a value for each seed or setting. No torch here."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from indattn.errors import UserError, nearest
from indattn.plans import Experiment, Member, load_experiment

__all__ = ["Evidence", "Observation", "Observed", "Rule"]


@dataclass
class Rule:
    """What decides a claim. Its hash covers all of it, and the claim's experiment.

    Attributes:
        statistic: ``mean``: over units, usually seeds, tested by flipping signs; ``every``: in each unit, usually a
            setting of the theory, as far as it was measured.
        table: a file of ``results/tables`` that has the data; ``None``: the experiment's runs.
        select: values of axes (or columns of the table) that all data has; a list is any of its members.
        better, worse: what the two sides of a comparison have beside; without, the measure itself is held against the
            margin.
        measure: an expression of a run's scores, or of the table's columns.
        error: the measure's standard error, the same way; ``None``: it is exact.
        compare: ``difference``: better less worse; ``ratio``: better by worse.
        higher: whether the claim says more; otherwise it says less.
        margin: what must be exceeded, or with ``higher: false`` not reached.
        within: instead of the margin, how far the measure may be from ``expected``, as a part of it, or a ratio from 1.
        expected: an expression that the measure is said to equal.
        per: what a unit is: columns that are the same on both sides.
        pool: whether several rows of a unit on one side are averaged; without, they are an error.
        least: units without which ``every`` decides nothing.
        unit: of the effect, in words.
    """

    statistic: str = "mean"
    table: str | None = None
    select: dict[str, Any] = field(default_factory=dict)
    better: dict[str, Any] = field(default_factory=dict)
    worse: dict[str, Any] = field(default_factory=dict)
    measure: str = "accuracy"
    error: str | None = None
    compare: str = "difference"
    higher: bool = True
    margin: float = 0.0
    expected: str | None = None
    within: float | None = None
    per: list[str] = field(default_factory=lambda: ["seed"])
    pool: bool = False
    least: int = 1
    unit: str = "accuracy"

    @property
    def is_ratio(self) -> bool:
        """Whether two sides are compared by their ratio, whose logarithm is what is averaged."""
        return bool(self.better) and self.compare == "ratio"


@dataclass(frozen=True)
class Observation:
    """A unit's value (of a ratio its logarithm), the standard error of it, and what the unit is called.

    Where steps to 0.9 are asked for and were not reached, the value is only known to be at most what it is here, at
    least that, or neither.
    """

    label: str
    value: float
    error: float = 0.0
    at_most: bool = False
    at_least: bool = False


@dataclass
class Observed:
    """What there is of a claim's data.

    Attributes:
        points: a value a unit; units of which something is missing have none.
        missing: commands of the runs that are missing.
        wanted: runs that the rule asks for; of a table 1.
        there: how many of them are there.
        problem: why there are no points although no run is missing; empty if there are.
    """

    points: list[Observation] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wanted: int = 0
    there: int = 0
    problem: str = ""


class Evidence:
    """Runs and tables of a results tree.

    Args:
        results_dir: the tree.
        profile: of the experiments, ``full`` or ``quick``.
        seeds: in place of the experiments' own.
    """

    def __init__(self, results_dir: Path, profile: str = "full", seeds: Sequence[int] = ()) -> None:
        self.results_dir, self.profile = results_dir, profile
        self.overrides = [f"results_dir={results_dir}"]
        if seeds:
            self.overrides.append("seed=" + ",".join(map(str, seeds)))
        self._experiments: dict[str, Experiment] = {}
        self._rows: dict[Member, dict[str, Any]] = {}

    def observe(self, name: str, experiment: str, rule: Rule) -> Observed:
        """The data of a claim.

        Args:
            name: the claim's, for messages.
            experiment: the experiment's.
            rule: what of it.

        Raises:
            UserError: if there is no such experiment, or it has no such axis, column or score.
        """
        loaded = self._experiment(name, experiment)
        where = f"claim {name}: "
        if rule.table is not None:
            file = self.results_dir / "tables" / rule.table
            if not file.is_file():
                return Observed(wanted=1, problem=f"{rule.table} is missing: indattn reproduce {experiment} makes it")
            observed = Observed(wanted=1, there=1)
            table = _read(file, experiment)
            sides = [_chosen(table, rule, side, where) for side in _sides(rule)]
        else:
            members = [self._members(loaded, {**rule.select, **side}, where) for side in _sides(rule)]
            everyone = list(dict.fromkeys(member for side in members for member in side))
            observed = Observed(wanted=len(everyone), there=sum(member.run.known for member in everyone))
            observed.missing = [
                f"indattn train {shlex.join(member.overrides)}" for member in everyone if not member.run.known
            ]
            for side, chosen in zip(_sides(rule), members, strict=True):
                if not chosen:
                    what = ", ".join(f"{key}={value}" for key, value in {**rule.select, **side}.items())
                    raise UserError(f"{where}its rule selects no run of {experiment}: {what}")
            sides = [pd.DataFrame([self._row(m) for m in side if m.run.known]) for side in members]
        if all(len(side) for side in sides):
            observed.points = _points(sides, rule, where)
            if not observed.points and not observed.missing:
                observed.problem = f"{rule.table or experiment} has no unit on both sides"
        elif not observed.missing:
            observed.problem = f"{rule.table} has no such rows"
        return observed

    def _experiment(self, claim: str, name: str) -> Experiment:
        if name not in self._experiments:
            try:
                self._experiments[name] = load_experiment(name, self.profile, self.overrides)
            except UserError as error:
                raise UserError(f"claim {claim}: {error}") from error
        return self._experiments[name]

    def _members(self, experiment: Experiment, chosen: Mapping[str, Any], where: str) -> list[Member]:
        """The members whose axes have the values that are asked for."""
        values = [{**_labels(member), **_typed(member.axes)} for member in experiment.members]
        known = {key for axes in values for key in axes}
        for key in chosen:
            if key not in known:
                raise UserError(f"{where}{experiment.name} has no axis {key}{nearest(key, known, 20)}")
        return [
            member
            for member, axes in zip(experiment.members, values, strict=True)
            if all(key in axes and _is(axes[key], value) for key, value in chosen.items())
        ]

    def _row(self, member: Member) -> dict[str, Any]:
        """A run's scores: those of the test split, and what its result says beside them.

        Of a run that never reached 0.9, ``steps_to_90`` is the number of its steps, and ``capped`` is true.
        """
        if member not in self._rows:
            result = member.run.result()
            steps = result["steps"] if result["steps_to_0.9"] is None else result["steps_to_0.9"]
            beside = {key: result.get(key) for key in ("ceiling", "chance", "flops_per_step", "parameters", "steps")}
            self._rows[member] = {
                **_typed(member.axes),
                **_labels(member),
                **result["test"],
                **beside,
                "steps_to_90": steps,
                "capped": result["steps_to_0.9"] is None,
            }
        return self._rows[member]


def _sides(rule: Rule) -> list[dict[str, Any]]:
    return [rule.better, rule.worse] if rule.better else [{}]


def _labels(member: Member) -> dict[str, Any]:
    return {key: value for key, value in member.run.labels.items() if key != "hash"}


def _typed(axes: Mapping[str, str]) -> dict[str, Any]:
    return {key: _value(text) for key, text in axes.items()}


@functools.cache
def _value(text: str) -> Any:
    return yaml.safe_load(text)


def _is(value: Any, asked: Any) -> bool:
    return any(_same(value, one) for one in (asked if isinstance(asked, list) else [asked]))


def _same(value: Any, asked: Any) -> bool:
    if isinstance(value, bool) or isinstance(asked, bool) or isinstance(value, str) or isinstance(asked, str):
        return str(value).lower() == str(asked).lower()
    return value == asked or (None not in (value, asked) and bool(np.isclose(value, asked)))


def _chosen(table: pd.DataFrame, rule: Rule, side: Mapping[str, Any], where: str) -> pd.DataFrame:
    """The rows of a table that have the values that are asked for."""
    chosen = {**rule.select, **side}
    for key in (*chosen, *rule.per):
        if key not in table:
            raise UserError(f"{where}{rule.table} has no column {key}{nearest(key, table.columns, 30)}")
    kept = [all(_is(row[key], value) for key, value in chosen.items()) for row in table.to_dict("records")]
    return table[kept]


def _read(file: Path, experiment: str) -> pd.DataFrame:
    try:
        return pd.read_csv(file)
    except (ValueError, OSError) as error:  # pandas's own errors of parsing are ValueErrors
        why = " ".join(str(error).split())
        raise UserError(f"{file} is damaged ({why}); indattn reproduce {experiment} makes it anew") from error


def _points(sides: Sequence[pd.DataFrame], rule: Rule, where: str) -> list[Observation]:
    """A value a unit.

    Raises:
        UserError: if a unit has several rows on one side and the rule does not pool them, a table has a unit on one
            side alone, or a value is not a number.
    """
    averaged = [_averaged(side, rule, where) for side in sides]
    units = averaged[0].index
    for other in averaged[1:]:
        if rule.table is not None and len(alone := units.symmetric_difference(other.index)):
            raise UserError(f"{where}{rule.table} has {_label(rule, alone[0])} on one side alone")
        units = units[units.isin(other.index)]
    value, error = averaged[0].loc[units, "value"], averaged[0].loc[units, "error"]
    at_most, at_least = pd.Series(False, units), averaged[0].loc[units, "capped"]
    if rule.better:
        other = averaged[1].loc[units]
        at_most = other["capped"]
        if rule.is_ratio:
            error = np.hypot(error / value, other["error"] / other["value"])
            value = np.log(value / other["value"])
        else:
            error = np.hypot(error, other["error"])
            value = value - other["value"]
    if not np.isfinite(value).all():
        raise UserError(f"{where}{rule.measure} is not a number at {_label(rule, value[~np.isfinite(value)].index[0])}")
    return [
        Observation(_label(rule, u), float(value[u]), float(error[u]), bool(at_most[u]), bool(at_least[u]))
        for u in units
    ]


def _averaged(side: pd.DataFrame, rule: Rule, where: str) -> pd.DataFrame:
    side = side.reset_index(drop=True)
    value = _evaluated(side, rule.measure, where)
    error = _evaluated(side, rule.error, where) if rule.error is not None else 0 * value
    if rule.expected is not None:
        expected = _evaluated(side, rule.expected, where)
        value, error = value / expected - 1, error / expected.abs()
    keys = [side[key] for key in rule.per]
    if not np.isfinite(value).all():
        at = side.loc[~np.isfinite(value), rule.per].iloc[0]
        raise UserError(f"{where}{rule.measure} is not a number at {_label(rule, tuple(at))}")
    capped = side["capped"] if "steps_to_90" in rule.measure else pd.Series(False, side.index)
    means = pd.DataFrame({"value": value, "square": error**2, "capped": capped}).groupby(keys, sort=True)
    count = means.size()
    if not rule.pool and (count > 1).any():
        several = _label(rule, count.index[count > 1][0])
        raise UserError(
            f"{where}{count.max()} rows are of {several}: let rule.select choose, or rule.pool average them"
        )
    error = np.sqrt(means["square"].sum()) / count
    return pd.DataFrame({"value": means["value"].mean(), "error": error, "capped": means["capped"].any()})


def _evaluated(side: pd.DataFrame, expression: str, where: str) -> pd.Series[float]:
    try:
        found = side.eval(expression, engine="python")
        numbers = np.asarray(found, float)
    except Exception as error:  # pandas passes on whatever the expression raises
        raise UserError(f"{where}{expression!r} cannot be evaluated: {error}") from error
    return pd.Series(np.broadcast_to(numbers, len(side)), index=side.index)


def _label(rule: Rule, unit: Any) -> str:
    values = unit if isinstance(unit, tuple) else (unit,)
    return ", ".join(
        f"{key} {value:g}" if not isinstance(value, str) else f"{key} {value}"
        for key, value in zip(rule.per, values, strict=True)
    )
