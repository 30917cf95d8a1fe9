"""How the results were made: versions, hardware, hours, commits and code of the record's runs."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import indattn
from indattn.errors import UserError
from indattn.runs import atomic
from indattn.store import load_records

__all__ = ["Making", "making"]

DIRTY = "-dirty"


@dataclass(frozen=True)
class Making:
    """What the record says of its runs.

    Attributes:
        tasks: a row a task: name, runs, hours.
        versions, hardware: a row each set of them: text, runs.
        commits: a row a commit, the newest first: short hash, date of it (empty if unknown), runs.
        code: a row a hash of the code: hash, runs.
        newest: the date of the newest commit that made a run; ``None`` if unknown.
    """

    tasks: list[tuple[str, int, float]]
    versions: list[tuple[str, int]]
    hardware: list[tuple[str, int]]
    commits: list[tuple[str, str, int]]
    code: list[tuple[str, int]]
    newest: str | None

    @property
    def runs(self) -> int:
        """How many runs there are."""
        return sum(runs for _, runs, _ in self.tasks)

    @property
    def hours(self) -> float:
        """How long they took together."""
        return sum(hours for _, _, hours in self.tasks)


def making(results_dir: Path, kept: Path) -> Making:
    """What the record says of how its runs were made.

    A run does not say when it was made: the date of its commit stands for that. Dates are asked from this checkout's
    history and kept in ``kept``, so that the report is the same where there is no history.

    Args:
        results_dir: the results tree.
        kept: a JSON file of dates by commit, read if it is there and written if a date is new.

    Raises:
        UserError: if the record or the file is damaged.
    """
    records = [record for _, record in sorted(load_records(results_dir).items())]
    by_task: dict[str, list[float]] = {}
    for record in records:
        by_task.setdefault(record["task"], []).append(record["seconds"])
    commits = Counter(record["commit"] or "unknown" for record in records)
    dates = _dates({commit.removesuffix(DIRTY) for commit in commits} - {"unknown"}, kept)
    rows = [(dates.get(commit.removesuffix(DIRTY), ""), commit, count) for commit, count in commits.items()]
    rows.sort(key=lambda row: (row[0], row[2], row[1]), reverse=True)
    return Making(
        tasks=[(task, len(seconds), sum(seconds) / 3600) for task, seconds in by_task.items()],
        versions=_counted(_versions(record["result"]) for record in records),
        hardware=_counted(_hardware(record["result"]) for record in records),
        commits=[(_short(commit), date, count) for date, commit, count in rows],
        code=_counted(record["code"] or "not recorded" for record in records),
        newest=max(dates.values(), default=None),
    )


def _counted(texts: Iterable[str]) -> list[tuple[str, int]]:
    return sorted(Counter(texts).items(), key=lambda item: (-item[1], item[0]))


def _short(commit: str) -> str:
    return commit if commit == "unknown" else commit[:10] + (" with changes" if commit.endswith(DIRTY) else "")


def _versions(result: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in result.get("versions", {}).items()) or "not recorded"


def _hardware(result: dict[str, Any]) -> str:
    known = result.get("hardware", {})
    parts = [str(known[key]) for key in ("device", "machine", "system") if known.get(key)]
    for key in ("cores", "threads", "processes"):
        if count := known.get(key):
            parts.append(f"{count} {key if count != 1 else {'processes': 'process'}.get(key, key[:-1])}")
    return ", ".join(parts) or "not recorded"


def _dates(commits: set[str], kept: Path) -> dict[str, str]:
    """The days of some commits, as far as they are known."""
    known: dict[str, str] = {}
    if kept.is_file():
        try:
            known = dict(json.loads(kept.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{kept} is damaged ({error}); take it from the repository again, or remove it") from error
    found = {commit: known.get(commit) or _asked(commit) for commit in sorted(commits)}
    dates = {commit: date for commit, date in found.items() if date}
    if dates and dates != known:
        with atomic(kept) as out:
            json.dump(dates, out, indent=1)
            out.write("\n")
    return dates


def _asked(commit: str) -> str | None:
    """The day of a commit in UTC, asked from the checkout that this package lies in."""
    root = Path(indattn.__file__).resolve().parent.parent
    if not (root / ".git").exists() or not re.fullmatch("[0-9a-f]{7,40}", commit):
        return None
    try:
        words = ["git", "-C", str(root), "show", "--no-patch", "--format=%ct", commit]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return datetime.fromtimestamp(int(done.stdout), timezone.utc).date().isoformat()
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None
