"""A list of all runs of a results tree, quick for thousands of them. No torch here.

What was read from results is kept in ``<results>/runs/.index.json``, beside the time and size of the file it was read
from, and read again when these change. The index is made anew whenever it is missing or damaged: nothing depends on it
but the time that a list takes.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from indattn.errors import UserError
from indattn.runs import BEFORE, LABELS, LAST, Run, atomic, scan, wanted
from indattn.store import load_file, record_files, stamp

__all__ = ["COLUMNS", "run_rows"]

FORMAT = 1

COLUMNS = ("state", "kind", "accuracy", "steps_to_0.9", "seconds", "steps", "commit", "code")
"""What a row says of a run beside its labels and its path."""


def run_rows(
    results_dir: str | Path, task: Any = None, model: Any = None, noise: Any = None, seed: Any = None, state: Any = None
) -> list[dict[str, Any]]:
    """A row a run, of folders and of the record, filtered by labels and state and ordered by labels.

    A row has the run's labels, :data:`COLUMNS` (``None`` where a run has no result) and ``path``.

    Args:
        results_dir: the results tree.
        task, model, noise, seed, state: a value or a list of values; ``None`` for all.
    """
    root = Path(results_dir)
    index = _Index(root / "runs" / ".index.json")
    recorded = {key: row for file in record_files(root) for key, row in index.of_record(file).items()}
    rows = {}
    for run, labels, entries in scan(root, task, model, noise, seed):
        row = index.of_folder(run, entries)
        rows[tuple(labels.values())] = (row if row[0] == "done" else recorded.get(run.key, row)), run.path
    for key, row in recorded.items():
        run = Run(root / "runs" / key)
        if all(map(wanted, run.labels.values(), (task, model, noise, seed, None))):
            rows.setdefault(tuple(run.labels.values()), (row, run.path))
    index.save(whole=task is model is noise is seed is None)
    return [
        {**dict(zip(LABELS, labels, strict=True)), **dict(zip(COLUMNS, row, strict=True)), "path": str(path)}
        for labels, (row, path) in sorted(rows.items())
        if wanted(row[0], state)
    ]


class _Index:
    """What was read from files, by their time and size; rows are lists of :data:`COLUMNS`."""

    def __init__(self, file: Path) -> None:
        self.file, self.changed = file, False
        self.folders: dict[str, Any] = {}
        self.records: dict[str, Any] = {}
        self.seen: set[str] = set()
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
            if known["format"] == FORMAT and known["columns"] == list(COLUMNS):
                self.folders, self.records = known["folders"], known["records"]
        except (OSError, ValueError, KeyError, TypeError):
            self.changed = True  # missing or damaged: made anew

    def of_folder(self, run: Run, entries: dict[str, os.DirEntry[str]]) -> list[Any]:
        """The row of a run's folder."""
        self.seen.add(run.key)
        if "result.json" not in entries:
            return _row("unfinished" if {LAST, BEFORE} & entries.keys() else "started", {})
        now = _stamp(entries["result.json"])
        known = self.folders.get(run.key)
        if known is None or known[0] != now:
            self.folders[run.key] = known = [now, _read(run)]
            self.changed = True
        return known[1]

    def of_record(self, file: Path) -> dict[str, list[Any]]:
        """The rows of a file of the record, by run."""
        now = list(stamp(file))
        known = self.records.get(file.name)
        if known is None or known[0] != now:
            rows = {key: _row("recorded", record["result"]) for key, record in load_file(file).items()}
            self.records[file.name] = known = [now, rows]
            self.changed = True
        return known[1]

    def save(self, whole: bool) -> None:
        """Write what is new; of a look at the whole tree, leave out what is gone."""
        if whole and self.folders.keys() - self.seen:
            self.folders = {key: known for key, known in self.folders.items() if key in self.seen}
            self.changed = True
        if not self.changed or not self.file.parent.is_dir():
            return
        content = {"format": FORMAT, "columns": COLUMNS, "folders": self.folders, "records": self.records}
        # Somebody else's tree that cannot be written is listed all the same, only more slowly.
        with contextlib.suppress(UserError), atomic(self.file) as out:
            json.dump(content, out, separators=(",", ":"))


def _stamp(entry: os.DirEntry[str]) -> list[int]:
    try:
        about = entry.stat()
    except FileNotFoundError:  # removed since it was listed
        return [0, 0]
    return [about.st_mtime_ns, about.st_size]


def _read(run: Run) -> list[Any]:
    try:
        return _row("done", run.result())
    except UserError:
        return _row("damaged", {})


def _row(state: str, result: dict[str, Any]) -> list[Any]:
    known = {**result, "state": state, "accuracy": result["test"]["accuracy"] if result else None}
    return [known.get(column) for column in COLUMNS]
