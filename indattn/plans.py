"""Experiments as plans: which runs an experiment is made of, which of them are there, how long the others will take.

An experiment is a file under ``configs/experiment/``: the axes of its sweep and, in its section ``plan``, what
`indattn reproduce` does around the runs. Runs that are not one product of axes are several sweeps (``plan.sweeps``), of
which `indattn reproduce` makes each run once; `indattn train experiment=NAME` knows the axes alone. No torch here.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, OmegaConf

from indattn.config import check_noise, check_seed, group_options, section
from indattn.errors import UserError, nearest
from indattn.index import run_rows
from indattn.provenance import hash_of, roots_of
from indattn.runs import Run

__all__ = ["PROFILES", "Experiment", "Member", "Plan", "Timings", "experiments", "load_all", "load_experiment"]

PROFILES = ("standard", "full", "quick")


@dataclass
class PlanConfig:
    """The section ``plan`` of an experiment.

    Attributes:
        runs: whether it has runs; without, it is its commands alone.
        in_all: profiles whose `indattn reproduce all` has it; ``[]``: none.
        weights: whether its results are made from weights, which the record does not have.
        prepare: commands before the runs, without the word indattn.
        evaluate: keys ``kind``, ``noise`` and ``n``, lists, of an `indattn evaluate` of those runs that are in folders
            and lack it; it becomes part of their record.
        results: commands after them: tables and figures. ``{runs}`` becomes the experiment's runs.
        sweeps: axes laid over those of ``hydra.sweeper.params``, a sweep each; the runs are those of all sweeps.
        standard: axes and other overrides of the profile ``standard``, laid over every sweep; ``{}``: it is as full.
        quick: the same of the profile ``quick``; ``{}``: there is no such profile.
    """

    runs: bool = True
    in_all: list[str] = field(default_factory=lambda: list(PROFILES))
    weights: bool = False
    prepare: list[str] = field(default_factory=list)
    evaluate: dict[str, list[Any]] = field(default_factory=dict)
    results: list[str] = field(default_factory=list)
    sweeps: list[dict[str, Any]] = field(default_factory=list)
    standard: dict[str, Any] = field(default_factory=dict)
    quick: dict[str, Any] = field(default_factory=dict)

    def axes(self, axes: Mapping[str, Any], profile: str) -> list[dict[str, Any]]:
        """The axes of every sweep under a profile."""
        above = {"standard": self.standard, "quick": self.quick}.get(profile, {})
        return [{**axes, **sweep, **above} for sweep in self.sweeps or [{}]]


@dataclass(frozen=True)
class Member:
    """A run of an experiment.

    Attributes:
        overrides: what makes `indattn train` train it.
        run: its folder.
        steps: optimiser steps it takes.
        keeps: steps whose weights it keeps.
        roots: the modules of its task, model and misalignment (:func:`indattn.provenance.hash_of`).
        axes: the value, as text, of every key that the sweep it is first in or the command line names, such as ``seed:
            "0"``, ``noise: "0.5"``, ``model: "indirect"``, ``model.self_attention: "true"``; not ``results_dir``.
    """

    overrides: tuple[str, ...]
    run: Run
    steps: int
    keeps: tuple[int, ...]
    roots: tuple[str, ...]
    axes: Mapping[str, str] = field(default_factory=dict, compare=False)

    def there(self, weights: bool) -> bool:
        """Whether its result is there; with ``weights``, also all weights that it keeps."""
        if not weights:
            return self.run.known
        return self.run.done and all((self.run.path / f"step-{step}.safetensors").is_file() for step in self.keeps)

    def made_by_other_code(self) -> bool:
        """Whether its result was made by other code than is here, or does not say by which."""
        return self.run.result().get("code") != hash_of(self.roots)


@dataclass(frozen=True)
class Experiment:
    """An experiment under a profile and overrides."""

    name: str
    plan: PlanConfig
    members: list[Member]

    def not_evaluated(self) -> list[Run]:
        """Runs that are in folders and lack an evaluation that the plan asks for."""
        keys = tuple(self.plan.evaluate)
        asked = set(itertools.product(*self.plan.evaluate.values())) if keys else set()
        runs = [member.run for member in self.members if member.run.done] if asked else []
        return [run for run in runs if asked - {tuple(e.get(key) for key in keys) for e in run.evaluations()}]

    def missing(self, fresh: bool = False) -> list[Member]:
        """Runs that are neither there nor recorded; of a ``fresh`` look, those made by other code too."""
        return [m for m in self.members if not m.there(self.plan.weights) or (fresh and m.made_by_other_code())]


def experiments() -> list[str]:
    """Names of the experiments there are."""
    return [name for name in group_options("experiment") if name[0] != "_"]


def load_experiment(name: str, profile: str, overrides: Sequence[str]) -> Experiment:
    """An experiment's plan. Hydra must have been started.

    Args:
        name: a file under ``configs/experiment/``.
        profile: ``full``, or ``standard`` or ``quick`` for the smaller sweeps of the plan.
        overrides: of the command line; they take the place of axes of the same name.

    Raises:
        UserError: if there is no such experiment, or its plan is not one.
    """
    if name not in experiments():
        raise UserError(f"experiment {name!r}: there is none of that name{nearest(name, [*experiments(), 'all'], 30)}")
    return _experiment(name, *_load_plan(name), profile, overrides)


def load_all(profile: str, overrides: Sequence[str]) -> list[Experiment]:
    """:func:`load_experiment` of those that `indattn reproduce all` has under a profile."""
    plans = {name: _load_plan(name) for name in experiments()}
    of = {
        name: loaded
        for name, loaded in plans.items()
        if profile in loaded[0].in_all and (profile != "quick" or loaded[0].quick or not loaded[0].runs)
    }
    return [_experiment(name, *loaded, profile, overrides) for name, loaded in of.items()]


def _experiment(
    name: str, plan: PlanConfig, axes: dict[str, Any], profile: str, overrides: Sequence[str]
) -> Experiment:
    if not plan.runs:
        return Experiment(name, plan, [])
    if profile == "quick" and not plan.quick:
        raise UserError(f"experiment {name} has no profile quick: its plan names none")
    parser = OverridesParser.create()
    members: dict[Run, Member] = {}
    for sweep in plan.axes(axes, profile):
        parsed = parser.parse_overrides([f"{key}={_text(value)}" for key, value in sweep.items()] + list(overrides))
        last = {override.get_key_element(): override for override in parsed}  # what the user says, in its place
        [combinations] = BasicSweeper.split_arguments(list(last.values()), None)
        for member in _members(name, parser, combinations):
            members.setdefault(member.run, member)
    return Experiment(name, plan, list(members.values()))


def _load_plan(name: str) -> tuple[PlanConfig, dict[str, Any]]:
    """An experiment's plan and the axes of its sweep.

    Raises:
        UserError: if the plan is not one.
    """
    whole = compose("train", overrides=[f"experiment={name}"], return_hydra_config=True)
    plan = section(PlanConfig, whole.get("plan") or {}, f"plan of experiment {name}")
    for profile in plan.in_all:
        if profile not in PROFILES:
            raise UserError(f"plan of experiment {name}: in_all has {profile!r}: must be of {', '.join(PROFILES)}")
    return plan, dict(whole.hydra.sweeper.params or {})


def _members(name: str, parser: OverridesParser, combinations: list[list[str]]) -> Iterator[Member]:
    """Members of a sweep. Only choices of groups are composed anew; plain values are put in afterwards."""
    composed: dict[tuple[str, ...], DictConfig] = {}

    @functools.cache
    def parse(text: str) -> tuple[Override, bool]:
        override = parser.parse_override(text)
        return override, _is_plain(override)

    for combination in combinations:
        parsed = [parse(text) for text in combination]
        plain = [override for override, is_plain in parsed if composed and is_plain]
        others = tuple(text for text, (_, is_plain) in zip(combination, parsed, strict=True) if not is_plain)
        if others not in composed:  # with the plain values as well: Hydra then says what is wrong with them
            composed[others] = compose("train", overrides=[f"experiment={name}", *combination])
            plain = []
        config = composed[others]
        for override in plain:
            OmegaConf.update(config, override.key_or_group, override.value())
        check_noise(config.noise)
        check_seed(config.seed)
        overrides = (f"experiment={name}", *combination)
        keeps = tuple(config.training.keep_checkpoints)
        axes = {o.key_or_group: _text(o.value()) for o, _ in parsed if o.key_or_group != "results_dir"}
        yield Member(overrides, Run.of(config), int(config.training.steps), keeps, roots_of(config), axes)


def _text(value: Any) -> str:
    """A value as one writes it behind ``KEY=``; 1.0 and 1 are the same."""
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | ListConfig):
        return f"[{','.join(map(_text, value))}]"
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _is_plain(override: Override) -> bool:
    """Whether an override gives a key a value: it chooses no file of a group, and adds and deletes nothing."""
    return not (override.is_add() or override.is_delete() or override.is_force_add()) and (
        not group_options(override.key_or_group)
    )


class Timings:
    """How long runs take, by runs that are there."""

    def __init__(self, results_dir: Path) -> None:
        self.by_model: dict[tuple[str, str], list[float]] = {}
        self.by_task: dict[str, list[float]] = {}
        for row in run_rows(results_dir):
            if row["seconds"] and row["steps"]:
                a_step = row["seconds"] / row["steps"]
                self.by_model.setdefault((row["task"], row["model"]), []).append(a_step)
                self.by_task.setdefault(row["task"], []).append(a_step)

    def seconds(self, member: Member) -> float | None:
        """The median over runs of the same task and model, or else of the task, step for step; ``None`` without any."""
        labels = member.run.labels
        timed = self.by_model.get((labels["task"], labels["model"])) or self.by_task.get(labels["task"])
        return statistics.median(timed) * member.steps if timed else None


class Plan:
    """What several experiments need: their runs, each once, and which of them are missing.

    Args:
        chosen: the experiments.
        fresh: whether runs made by other code are missing too.
        timings: how long runs take.
    """

    def __init__(self, chosen: list[Experiment], fresh: bool, timings: Timings) -> None:
        self.chosen, self.fresh, self.timings = chosen, fresh, timings
        # Of a run that is in several experiments the one is made that keeps most weights.
        members = sorted((m for e in chosen for m in e.members), key=lambda m: len(m.keeps))
        missing = sorted((m for e in chosen for m in e.missing(fresh)), key=lambda m: len(m.keeps))
        self.members = list({member.run: member for member in members}.values())
        order = {member.run: i for i, member in enumerate(m for e in chosen for m in e.members)}
        self.missing = sorted({m.run: m for m in missing}.values(), key=lambda m: order[m.run])

    def seconds(self, members: Sequence[Member]) -> float | None:
        """How long runs take, one after the other; ``None`` when one of them is of a task never timed."""
        times = [self.timings.seconds(member) for member in members]
        return None if None in times else math.fsum(t for t in times if t is not None)

    def print(self, jobs: int | None) -> None:
        """A line an experiment, and one for all."""
        width = max(len(experiment.name) for experiment in self.chosen)
        for experiment in self.chosen:
            print(f"{experiment.name:<{width}}  {self._says(experiment, jobs)}")
        if len(self.chosen) > 1:
            print(f"{'together':<{width}}  {len(self.missing)} runs to do{self._time(self.missing, jobs)}")

    def _says(self, experiment: Experiment, jobs: int | None) -> str:
        if not experiment.members:
            return f"no runs; {'; '.join(experiment.plan.results)}"
        missing = experiment.missing(self.fresh)
        there = [member for member in experiment.members if member.run.known]
        recorded = sum(not member.run.done for member in there)
        older = sum(member.made_by_other_code() for member in there)
        notes = [f"{recorded} in the record alone"] * bool(recorded) + [f"{older} made by other code"] * bool(older)
        said = f"{len(experiment.members)} runs: {len(there)} there" + (f" ({', '.join(notes)})" if notes else "")
        return f"{said}, {len(missing)} to do{self._time(missing, jobs)}"

    def _time(self, members: Sequence[Member], jobs: int | None) -> str:
        if not members:
            return ""
        seconds = self.seconds(members)
        if seconds is None:
            return ", how long is not known: no run of the task was timed yet"
        if jobs is None:
            return f", {_duration(seconds)} of one process"
        return f", about {_duration(seconds / min(jobs, len(members)))} on {jobs} process{'es' * (jobs > 1)}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
