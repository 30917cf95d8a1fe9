"""`indattn reproduce`: the runs of experiments as far as they are missing, then their tables, figures and claims.

What is done is told from run folders and the record alone: the command can be killed and given again, or given twice at
once.
"""

from __future__ import annotations

import os
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from indattn.claims.statements import load_statements
from indattn.command_line import quoted
from indattn.errors import UserError, nearest
from indattn.launching import Launcher, make
from indattn.plans import PROFILES, Experiment, Plan, Timings, experiments, load_all, load_experiment
from indattn.runs import Run
from indattn.store import add_records

__all__ = ["run"]

FOLDER = 8e6
"""Bytes of a run's folder, where there is none to measure."""


class RunsFailed(UserError):
    """Some runs or commands failed; their lines have been printed."""

    exit_code = 1


def run(config: DictConfig) -> None:
    """The verb ``reproduce``.

    Raises:
        UserError: for bad input; :class:`RunsFailed` when runs failed.
    """
    _check(config)
    os.environ["INDATTN_PROFILE"] = config.profile  # figures say so where it is quick
    tree = _results_dir(config)
    of_hydra = [override for override in config.override if override.startswith("hydra")]
    of_runs = [f"results_dir={quoted([str(tree)])[1:-1]}"]
    of_runs += [override for override in config.override if override not in of_hydra]
    names = list(config.experiments)
    loaded = (
        load_all(config.profile, of_runs) if name == "all" else [load_experiment(name, config.profile, of_runs)]
        for name in names
    )
    chosen = list({experiment.name: experiment for some in loaded for experiment in some}.values())
    plan = Plan(chosen, config.fresh, Timings(tree))
    launcher = Launcher(of_hydra, config.jobs)
    plan.print(launcher.jobs)
    if config.dry_run:
        return
    failures: dict[Run, str] = {}
    if plan.missing:
        _demand_room(tree, plan)
        for command in dict.fromkeys(command for e in chosen if e.missing(config.fresh) for command in e.plan.prepare):
            if _command(shlex.split(command), tree):
                raise UserError(f"indattn {command}, which the runs need, failed")
        failures = make(plan, launcher, sys.stderr.isatty() if config.progress == "auto" else config.progress)
    failed_commands = _evaluate(chosen, tree)
    done = [member.run for member in plan.members if member.run.done]
    if done:
        new, count = add_records(tree, done)
        print(f"{tree / 'records'}: {count} runs, {new} of them new or changed")
    commands = dict.fromkeys(command for experiment in chosen for command in _results(experiment))
    if {experiment.name for experiment in chosen} & {one.experiment for one in load_statements().values()}:
        commands[("claims", f"profile={'quick' if config.profile == 'quick' else 'full'}")] = None
        if "all" in names:
            commands[("report",)] = None
    failed_commands += [" ".join(words[:3]) for words in commands if _command(words, tree)]
    for member in plan.missing:
        if member.run in failures:
            print(f"failed: indattn train {' '.join(member.overrides)}: {failures[member.run]}", file=sys.stderr)
    if failures:
        raise RunsFailed(f"{len(failures)} of {len(plan.missing)} runs failed; the same command tries them again")
    if failed_commands:
        raise RunsFailed(f"failed: {'; '.join(failed_commands)}")


def _check(config: DictConfig) -> None:
    if not config.experiments:
        raise UserError(f"which experiment? one or more of {', '.join(experiments())}; or all")
    if config.profile not in PROFILES:
        raise UserError(f"profile={config.profile}: no such profile{nearest(str(config.profile), PROFILES)}")
    for key in ("dry_run", "fresh"):
        if not isinstance(config[key], bool):
            raise UserError(f"{key}={config[key]}: must be true or false")
    if config.progress not in ("auto", True, False):
        raise UserError(f"progress={config.progress}: must be auto, true or false")
    jobs = config.jobs
    if jobs != "auto" and (isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1):
        raise UserError(f"jobs={jobs}: must be auto or a whole number of at least 1")


def _results_dir(config: DictConfig) -> Path:
    if config.results_dir is not None:
        return Path(str(config.results_dir))
    usual = Path(os.environ.get("INDATTN_RESULTS", "results"))
    return usual / "quick" if config.profile == "quick" else usual


def _demand_room(tree: Path, plan: Plan) -> None:
    """That the tree can be written, and that the disk has room for the missing runs."""
    try:
        tree.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(tree).free
    except OSError as error:
        raise UserError(f"results_dir={tree}: cannot write there ({error.strerror})") from error
    if not os.access(tree, os.W_OK):
        raise UserError(f"results_dir={tree}: cannot write there (Permission denied)")
    there = [member.run for member in plan.members if member.run.done][:5]
    a_run = statistics.median([_size(run) for run in there]) if there else FOLDER
    if len(plan.missing) * a_run > free:
        raise UserError(
            f"{len(plan.missing)} runs of about {a_run / 1e6:.0f} MB do not fit into the {free / 1e9:.1f} GB that are "
            f"left in {tree}; results_dir=FOLDER puts them elsewhere"
        )


def _size(run: Run) -> int:
    return sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())


def _evaluate(chosen: Sequence[Experiment], tree: Path) -> list[str]:
    """Make the evaluations that plans ask for and runs lack; those that failed."""
    failed = []
    for experiment in chosen:
        if runs := experiment.not_evaluated():
            asked = [f"{key}=[{','.join(map(str, values))}]" for key, values in experiment.plan.evaluate.items()]
            words = ["evaluate", f"run={quoted([str(run.path) for run in runs])}", *asked]
            failed += [f"evaluate of {experiment.name}"] * bool(_command(words, tree, quiet=True))
    return failed


def _results(experiment: Experiment) -> list[tuple[str, ...]]:
    """The commands that draw an experiment's figures and tables from the runs there are; none if there are none."""
    runs = [member.run for member in experiment.members if member.there(experiment.plan.weights)]
    if experiment.members and not runs:
        return []
    these = f"run={quoted([str(run.path) for run in runs])}"
    return [
        tuple(these if word == "{runs}" else word for word in shlex.split(command))
        for command in experiment.plan.results
    ]


def _command(words: Sequence[str], tree: Path, quiet: bool = False) -> int:
    """A verb in a process of its own, for Hydra keeps one configuration a process; its exit code."""
    print(f"indattn {' '.join(word if len(word) < 80 else 'run=[...]' for word in words)}", flush=True)
    environment = {**os.environ, "INDATTN_RESULTS": str(tree)}
    command = [sys.executable, "-m", "indattn.cli", *words]
    return subprocess.run(
        command, env=environment, stdout=subprocess.DEVNULL if quiet else None, check=False
    ).returncode
