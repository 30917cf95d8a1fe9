"""Runs of a plan as they are made: one bar for all of them, and a run that another command is making."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping

from filelock import FileLock, Timeout
from tqdm import tqdm

from indattn.errors import UserError
from indattn.runs import Run

__all__ = ["ERROR", "PERIOD", "free", "made", "watching"]

ERROR = "error.txt"
"""The file in a run's folder that says in a line why it failed; gone when it is tried again."""

PERIOD = 1.0
"""Seconds between two looks."""


def free(run: Run) -> bool:
    """Whether no process is making a run. A lock goes with its process, however that ends."""
    lock = FileLock(run.path / ".lock")
    try:
        with lock.acquire(timeout=0):
            return True
    except Timeout:
        return False
    except OSError:  # no folder yet
        return True


def made(run: Run, since: float) -> bool:
    """Whether a run was finished after a time: one that is made anew was done before."""
    try:
        return (run.path / "result.json").stat().st_mtime >= since - 1  # some file systems round times
    except OSError:
        return False


def _part(run: Run, steps: int, since: float) -> float:
    """How much of a run is done, by the last line of its curve."""
    if made(run, since):
        return 1.0
    if run.done:
        return 0.0
    try:
        lines = run.metrics()
    except UserError:  # it is being written anew: the next look will tell
        return 0.0
    return lines[-1]["step"] / steps if lines else 0.0


@contextlib.contextmanager
def watching(steps: Mapping[Run, int], seconds: Mapping[Run, float], since: float, shown: bool) -> Iterator[None]:
    """A bar over runs while other processes make them: done, failed, time left.

    Args:
        steps: of each run.
        seconds: how long each takes, in any unit: the bar goes by it.
        since: when it began, in seconds since 1970.
        shown: whether to show one.
    """
    if not shown:
        yield
        return
    whole = sum(seconds.values())
    form = "{percentage:3.0f}%|{bar}| {desc} [{elapsed}<{remaining}]"
    ended = threading.Event()
    with tqdm(total=whole, bar_format=form, dynamic_ncols=True, smoothing=0) as bar:

        def look() -> None:
            bar.n = min(whole, sum(_part(run, steps[run], since) * seconds[run] for run in steps))
            done = sum(made(run, since) for run in steps)
            failed = sum((run.path / ERROR).is_file() for run in steps)
            bar.set_description_str(f"{done} of {len(steps)} runs, {failed} failed")

        def keep_looking() -> None:
            while not ended.wait(PERIOD):
                look()

        look()
        thread = threading.Thread(target=keep_looking, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            look()
