"""`indattn gc`: what a results tree has of runs that did not finish, and of writers that were killed. No torch here.

Found are runs that are not done and that no process is training, temporary files that were never renamed, and empty
folders. Finished runs, and all that lies in their folders, are never touched, nor runs whose lock somebody holds.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig
from rich.filesize import decimal

from indattn.errors import UserError
from indattn.runs import BEFORE, LAST, Run
from indattn.tables import check_format, print_table

__all__ = ["Leftover", "find_leftovers", "remove", "run"]

#: What :func:`indattn.runs.atomic` writes before it renames: only names it can have made.
TEMPORARY = re.compile(r"\..+\.(csv|gz|json|jsonl|md|npz|pdf|png|pt|safetensors|svg|txt|yaml)\.[a-z0-9_]{8}")
#: Seconds in which a file or folder without a lock may still be in the making.
YOUNG = 60.0
COLUMNS = ["what", "why", "size", "age", "path"]


@dataclass(frozen=True)
class Leftover:
    """Something that may go.

    Attributes:
        what: ``run``, ``temporary file`` or ``empty folder``.
        why: a run's state, or what is wrong with it.
        path: of the file or folder.
        size: bytes.
        age: seconds since it was last written.
    """

    what: str
    why: str
    path: Path
    size: int
    age: float

    def row(self, form: str) -> dict[str, Any]:
        """A line of a table: words for people, numbers for programs."""
        table = form == "table"
        return {
            "what": self.what,
            "why": self.why,
            "size": decimal(self.size) if table else self.size,
            "age": _duration(self.age) if table else round(self.age),
            "path": str(self.path),
        }


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether this process now holds a run's lock; a lock that was not there is not left behind."""
    file = folder / ".lock"
    there = file.exists()
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):  # somebody trains it, or it is not ours to write
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
        if not there:
            file.unlink(missing_ok=True)


def _measure(path: Path) -> tuple[int, float]:
    """Bytes below a path, and seconds since the last of it was written."""
    size, latest = 0, 0.0
    for file in (path, *path.rglob("*")) if path.is_dir() else (path,):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            stat = file.lstat()
            size += 0 if file.is_dir() else stat.st_size
            latest = max(latest, stat.st_mtime)
    return size, max(0.0, time.time() - latest)


def _why(run: Run) -> str | None:
    """What is not done about a run; ``None`` for one that is."""
    if run.done:
        return None
    if run.state == "new":
        return "no configuration"
    try:
        run.config()
    except UserError:
        return "damaged configuration"
    resumable = any((run.path / name).is_file() for name in (LAST, BEFORE))
    return "unfinished, could be resumed" if resumable else "started, nothing saved"


def find_leftovers(results_dir: str | Path) -> list[Leftover]:
    """What may go from a results tree, runs first."""
    root = Path(results_dir)
    found, covered = [], set()
    for folder in sorted(root.glob("runs/*/*/noise-*/seed-*/*")):
        run = Run(folder)
        try:
            run.labels  # noqa: B018
        except ValueError:
            continue  # somebody's folder that only looks like a run's
        if not folder.is_dir() or folder.is_symlink() or not any(folder.iterdir()):
            continue
        why = _why(run)
        if why is not None:
            with _locked(folder) as free:
                if free:
                    found.append(Leftover("run", why, folder, *_measure(folder)))
        covered.add(folder)  # what lies in a run's folder goes with it, or stays with it
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not covered.isdisjoint((path, *path.parents)):
            continue
        if path.is_file() and TEMPORARY.fullmatch(path.name):
            what, why = "temporary file", "its writer was killed"
        elif path.is_dir() and not any(file for _, _, files in os.walk(path) for file in files):
            what, why = "empty folder", "nothing in it"
        else:
            continue
        size, age = _measure(path)
        if age >= YOUNG:
            found.append(Leftover(what, why, path, size, age))
            covered.add(path)
    return found


def remove(leftover: Leftover, results_dir: str | Path) -> bool:
    """Remove it, and the folders above that are empty then.

    Returns:
        whether it went: a run that was taken up or finished meanwhile stays.

    Raises:
        UserError: if it cannot be removed.
    """
    path = leftover.path
    try:
        if leftover.what == "run":
            with _locked(path) as free:
                if not free or Run(path).done:
                    return False
                shutil.rmtree(path)
        elif leftover.what == "temporary file":
            path.unlink(missing_ok=True)
        else:
            for folder, _, _ in os.walk(path, topdown=False):
                os.rmdir(folder)  # fails where a file has appeared
    except OSError as error:
        raise UserError(f"cannot remove {path}: {error.strerror or error}") from error
    for parent in path.parents:
        if parent == Path(results_dir) or any(parent.iterdir()):
            break
        parent.rmdir()
    return True


def _asks() -> bool:
    """Whether somebody sees the question and can answer."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def run(config: DictConfig) -> None:
    """The verb ``gc``."""
    check_format(config.format)
    if not isinstance(config.yes, bool):
        raise UserError(f"yes={config.yes}: must be true or false")
    found = find_leftovers(config.results_dir)
    if not found and config.format == "table":
        print(f"nothing to remove in {config.results_dir}")
        return
    size = decimal(sum(one.size for one in found))
    title = f"{len(found)} left over in {config.results_dir}, {size}"
    print_table([one.row(config.format) for one in found], COLUMNS, config.format, title=title)
    if not found:
        return
    if not config.yes:
        if config.format != "table" or not _asks():
            print("nothing was removed; indattn gc --yes removes what is listed", file=sys.stderr)
            return
        try:
            answer = input(f"Remove all of it ({size})? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            print("nothing was removed")
            return
    gone = [one for one in found if remove(one, config.results_dir)]
    print(f"removed {len(gone)}, {decimal(sum(one.size for one in gone))}", file=sys.stderr)
