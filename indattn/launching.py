"""Runs of a plan through one of Hydra's launchers: tried twice, shared with other commands, stopped without loss."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import joblib
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from indattn.errors import Interrupted, UserError
from indattn.plans import Member, Plan
from indattn.runs import Run, atomic
from indattn.trees import use, used
from indattn.watching import ERROR, PERIOD, free, made, watching

__all__ = ["Launcher", "make", "processes", "train_member"]

ATTEMPTS = 2
"""How often a run is tried."""

MEMORY = 1.8e9
"""Bytes that each process has at least when they are shared out: what the largest of our runs take."""

STOP = "INDATTN_STOP"
"""The variable that names a file: once it is there, no process of this machine begins another run."""

PATIENCE = 60.0
"""Seconds that processes have to save what they are at before they are ended."""

ELSEWHERE = "another command is training it"
NOT_BEGUN = "not begun"


class Launcher:
    """Hydra's launcher for runs of `indattn train`.

    Args:
        overrides: those of Hydra's own keys.
        jobs: processes for the launcher of this machine, or ``auto``.
    """

    def __init__(self, overrides: Sequence[str], jobs: int | str) -> None:
        self.overrides = list(overrides)
        self.jobs: int | None = None  # how many run at once, other launchers know
        if not any(override.startswith("hydra/launcher=") for override in overrides):
            self.jobs = processes() if isinstance(jobs, str) else jobs
            self.overrides = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={self.jobs}", *overrides]

    def launch(self, members: Sequence[Member]) -> list[str | None]:
        """Train runs, one thread each, and say of each in a line what went wrong, if anything did."""
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        config = hydra.compose_config("train", ["hydra.mode=MULTIRUN", *self.overrides], RunMode.MULTIRUN)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config)),
            task_function=train_member,
            config=config,
        )
        fixed = ["threads=1", "figures=false", "progress=false"]
        jobs = [[*fixed, *member.overrides, *["force=true"] * member.run.done] for member in members]
        return [job.return_value for job in launcher.launch(jobs, initial_job_idx=0)]


def processes() -> int:
    """As many as processors, as far as the memory that is free allows."""
    try:
        memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system says
        return joblib.cpu_count()
    return max(1, min(joblib.cpu_count(), int(memory // MEMORY)))


def train_member(config: DictConfig) -> str | None:
    """Train a run of a plan, quietly, where the launcher puts it.

    Returns:
        in a line what went wrong, or nothing. The line is written into the run's folder too, for those who watch.

    Raises:
        Interrupted: when a signal came; the run can be resumed.
    """
    from indattn.environment import set_threads
    from indattn.training import train

    if os.path.exists(os.environ.get(STOP, "")):
        raise Interrupted("stopped before it began", signal.SIGTERM)
    use(used(HydraConfig.get().runtime.config_sources))  # perhaps in another process than the command's
    set_threads(config.threads)
    run = Run.of(config)
    try:
        (run.path / ERROR).unlink(missing_ok=True)
        with contextlib.redirect_stdout(io.StringIO()):
            _, result = train(config)
        return None if result else ELSEWHERE
    except Interrupted:
        if STOP in os.environ:  # where runs go one after the other in this process, the next one must not begin
            Path(os.environ[STOP]).touch()
        raise
    except Exception as error:  # whatever it is, the other runs go on, and the end of the plan tells
        line = " ".join(str(error).split()) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(UserError), atomic(run.path / ERROR) as file:
            file.write(f"{line}\n")
        return line


def make(plan: Plan, launcher: Launcher, progress: bool) -> dict[Run, str]:
    """Make the missing runs of a plan; one that fails is tried again once.

    Runs that another command is making are left to it, and taken over if it ends without finishing them.

    Returns:
        what went wrong, by run.

    Raises:
        Interrupted: when a signal came; all runs can be resumed.
    """
    seconds = {member.run: plan.timings.seconds(member) or float(member.steps) for member in plan.missing}
    steps = {member.run: member.steps for member in plan.missing}
    tried: Counter[Run] = Counter()
    failures: dict[Run, str] = {}
    left = list(plan.missing)
    began = time.time()
    with _stopping(list(steps)), watching(steps, seconds, began, progress):
        while left:
            lines = dict(zip(left, _attempt(launcher, left, began), strict=True))
            for member, line in lines.items():
                failures.pop(member.run, None)
                if line and line != ELSEWHERE:
                    failures[member.run] = line
                    tried[member.run] += line != NOT_BEGUN
            elsewhere = [member for member in left if lines[member] == ELSEWHERE]
            again = [member for member in left if member.run in failures and tried[member.run] < ATTEMPTS]
            left = [*again, *elsewhere] if again else _abandoned(elsewhere)
    return failures


def _attempt(launcher: Launcher, members: list[Member], began: float) -> list[str | None]:
    """:meth:`Launcher.launch`, also where a process is killed and takes the launcher with it."""
    try:
        return launcher.launch(members)
    except (UserError, HydraException):
        raise
    except Exception as error:
        if not any((member.run.path / ".lock").exists() for member in members):
            raise  # nothing was begun: it is the launcher that does not work
        what = f"a process ended ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        begun = [member for member in members if (member.run.path / ".lock").exists()]
        at_work = [member for member in begun if not made(member.run, began) and free(member.run)]
        lines: dict[Member, str | None] = dict.fromkeys(members, NOT_BEGUN if at_work else what)
        lines |= dict.fromkeys(at_work, what)
        lines |= {member: None for member in begun if made(member.run, began)}
        return [lines[member] for member in members]


def _abandoned(members: list[Member]) -> list[Member]:
    """Wait for the runs that other commands are making; those they gave up, if any."""
    while members:
        time.sleep(PERIOD)
        members = [member for member in members if not member.run.done]
        if given_up := [member for member in members if free(member.run) and not member.run.done]:
            return given_up
    return []


@contextlib.contextmanager
def _stopping(runs: Sequence[Run]) -> Iterator[None]:
    """While runs are made, SIGINT and SIGTERM let processes save the runs they are at, then raise ``Interrupted``."""
    with tempfile.TemporaryDirectory() as folder:
        stop = Path(folder) / "stop"

        def ask(number: int, frame: Any) -> None:
            stop.touch()
            if number == signal.SIGTERM:  # a terminal sends SIGINT to all processes itself
                for process in multiprocessing.active_children():
                    process.terminate()
            end = time.time() + PATIENCE
            while time.time() < end and not all(map(free, runs)):
                time.sleep(0.1)
            done = sum(run.done for run in runs)
            raise Interrupted(f"stopped with {done} of {len(runs)} runs done; the same command goes on", number)

        os.environ[STOP] = str(stop)
        previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            del os.environ[STOP]
