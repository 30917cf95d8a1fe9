"""The record: what finished runs found, small enough to be committed and read without their folders. No torch here.

Layout::

    <results>/records/<task>.jsonl.gz   a line a run: labels, scores, code; config, result, curve, evaluations
    <results>/records/<task>.npz        what paired tests need of single examples; each array once, named by its hash

Run folders stay the truth: a record is read where a folder is missing. One line reads it all::

    pandas.read_json("results/records/synthetic.jsonl.gz", lines=True, dtype=False)

Numbers come back exactly as they stood in the run's files. Equal records are equal bytes.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from omegaconf import OmegaConf

from indattn.errors import UserError

if TYPE_CHECKING:
    from indattn.runs import Run

__all__ = ["Record", "add_records", "find_record", "load_file", "load_records", "per_example", "record_files", "stamp"]

FORMAT = 1
DECIMALS = 3
"""Numbers of so many decimals at most are kept as whole ones: a tenth of the room."""

Record: TypeAlias = dict[str, Any]


def record_files(results_dir: Path) -> list[Path]:
    """The files that hold a line a run, one a task."""
    return sorted((results_dir / "records").glob("*.jsonl.gz"))


def load_records(results_dir: Path) -> dict[str, Record]:
    """The records of a results tree by the run's folder below ``runs/``; arrays stay in their file.

    Raises:
        UserError: if one is damaged or of another version.
    """
    return {key: record for file in record_files(results_dir) for key, record in load_file(file).items()}


def find_record(results_dir: Path, key: str) -> Record | None:
    """The record of the run in a folder below ``runs/``, if there is one.

    Raises:
        UserError: if its task's records are damaged or of another version.
    """
    file = results_dir / "records" / f"{key.partition('/')[0]}.jsonl.gz"
    return load_file(file).get(key) if file.is_file() else None


def load_file(file: Path) -> dict[str, Record]:
    """The records of one file.

    Raises:
        UserError: if it is damaged or of another version.
    """
    return _lines(file, *stamp(file))


def stamp(file: Path) -> tuple[int, int]:
    """What changes when a file is written anew: time in ns and size."""
    about = file.stat()
    return about.st_mtime_ns, about.st_size


@functools.lru_cache(maxsize=64)
def _lines(file: Path, modified: int, size: int) -> dict[str, Record]:
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
        versions = {record["format"] for record in records}
        found = {record["path"]: record for record in records}
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); take it from the repository again, or remove it") from error
    if versions - {FORMAT}:
        raise UserError(f"{file} has format {max(versions - {FORMAT})}, this version reads {FORMAT}")
    return found


def per_example(results_dir: Path, record: Record, packed: Any) -> Any:
    """What a record's result or evaluation says of single examples, as it stood in the run's file.

    Args:
        results_dir: the results tree.
        record: the run's record.
        packed: its ``per_example``: where arrays stood, their names.

    Raises:
        UserError: if an array is missing or damaged.
    """
    file = results_dir / "records" / f"{record['task']}.npz"
    try:
        arrays = _arrays(file, *stamp(file))
        return _unpacked(packed, arrays)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is damaged or does not belong to its records ({error})") from error


@functools.lru_cache(maxsize=16)
def _arrays(file: Path, modified: int, size: int) -> dict[str, NDArray[Any]]:
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def add_records(results_dir: Path, runs: Iterable[Run]) -> tuple[int, int]:
    """Put finished runs into the record, in the place of what stood there of the same runs.

    Processes that do so at once wait for each other.

    Args:
        results_dir: the results tree.
        runs: finished runs of it, whose folders are there.

    Returns:
        how many records are new or changed, and how many there are now.

    Raises:
        UserError: if a run is unfinished or damaged, or the record cannot be written.
    """
    folder = results_dir / "records"
    by_task: dict[str, list[Run]] = {}
    for run in runs:
        by_task.setdefault(run.labels["task"], []).append(run)
    changed = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            for task, of_task in sorted(by_task.items()):
                changed += _add(folder, task, of_task)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    return changed, len(load_records(results_dir))


def _add(folder: Path, task: str, runs: list[Run]) -> int:
    from indattn.runs import atomic

    lines, arrays = folder / f"{task}.jsonl.gz", folder / f"{task}.npz"
    records = dict(load_file(lines)) if lines.is_file() else {}
    kept = dict(_arrays(arrays, *stamp(arrays))) if arrays.is_file() else {}
    new = {record["path"]: record for record in (_record(run, kept) for run in runs)}
    changed = sum(records.get(key) != record for key, record in new.items())
    if not changed:
        return 0
    records |= new
    text = "".join(json.dumps(records[key], separators=(",", ":")) + "\n" for key in sorted(records))
    used = {name for record in records.values() for name in _names(record)}
    # The arrays first: a reader between the two finds all that the old lines name, and those of the new as well.
    with atomic(arrays, "wb") as file:
        file.write(_packed_arrays({name: array for name, array in sorted(kept.items()) if name in used}))
    with atomic(lines, "wb") as file:
        file.write(gzip.compress(text.encode(), 9, mtime=0))
    return changed


def _record(run: Run, arrays: dict[str, NDArray[Any]]) -> Record:
    """A run's record; what it says of single examples goes to ``arrays``."""
    result = dict(run.result())
    evaluations = [dict(evaluation) for evaluation in run.evaluations()]
    for scored in (result, *evaluations):
        if "per_example" in scored:
            scored["per_example"] = _packed(scored["per_example"], arrays)
    return {
        "format": FORMAT,
        "path": run.key,
        **run.labels,
        "kind": result["kind"],
        "accuracy": result["test"]["accuracy"],
        "steps_to_0.9": result["steps_to_0.9"],
        "seconds": result["seconds"],
        "commit": result.get("commit"),
        "code": result.get("code"),
        "config": OmegaConf.to_container(run.config()),
        "result": result,
        "curve": run.metrics(),
        "evaluations": evaluations,
    }


# Arrays ------------------------------------------------------------------------------------------------------


def _packed(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """A nest of lists in which each list of numbers gives way to the name of its array.

    ``{"@": name}``; with ``"per": s`` numbers are to be divided by s, with ``"gaps": true`` the least number is null.
    """
    if isinstance(value, dict):
        return {key: _packed(inner, arrays) for key, inner in value.items()}
    array, how = _as_array(value)
    if array is None:
        return value
    name = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).hexdigest()[:16]
    arrays[name] = array
    return {"@": name, **how}


def _as_array(value: Any) -> tuple[NDArray[Any] | None, dict[str, Any]]:
    """A list of numbers as the smallest array that gives it back exactly, and how; no array if there is none."""
    if not isinstance(value, list) or not value:
        return None, {}
    try:
        numbers = np.array(value)
    except ValueError:  # rows of different lengths
        return None, {}
    if numbers.dtype == np.int64:
        return numbers.astype(_smallest(int(numbers.min()), int(numbers.max()))), {}
    gaps = numbers.dtype == object and any(x is None for x in value)
    if gaps and all(x is None or isinstance(x, float) for x in value):
        numbers = np.array(value, float)  # NaN for null, of which JSON has none
    if (
        numbers.dtype != np.float64
        or np.isinf(numbers).any()
        or np.isnan(numbers).sum() != (value.count(None) if gaps else 0)
    ):
        return None, {}
    if not gaps and numbers.tolist() != value:  # a whole number among fractions that no float64 is
        return None, {}
    missing = np.isnan(numbers)
    filled = np.where(missing, 0, numbers)
    for scale in (10**decimals for decimals in range(DECIMALS + 1)):
        scaled = np.round(filled * scale)
        for kind in (np.int16, np.int32):
            least = np.iinfo(kind).min
            if np.abs(scaled).max() < -least and (scaled / scale == filled).all():
                return np.where(missing, least, scaled).astype(kind), {"per": scale, **({"gaps": True} if gaps else {})}
    return (None, {}) if gaps else (numbers, {})


def _smallest(least: int, most: int) -> np.dtype[Any]:
    """The smallest integer type that holds both; without a sign where it can be."""
    kinds = "u1 i1 u2 i2 u4 i4 i8"
    return next(
        kind for kind in map(np.dtype, kinds.split()) if np.iinfo(kind).min <= least and most <= np.iinfo(kind).max
    )


def _unpacked(packed: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    if not isinstance(packed, dict):
        return packed
    if "@" not in packed:
        return {key: _unpacked(inner, arrays) for key, inner in packed.items()}
    array = arrays[packed["@"]]
    if "per" not in packed:
        return array.tolist()
    numbers: list[Any] = (array / packed["per"]).tolist()
    if packed.get("gaps"):
        missing = (array == np.iinfo(array.dtype).min).tolist()
        return [None if gap else number for number, gap in zip(numbers, missing, strict=True)]
    return numbers


def _names(packed: Any) -> Iterator[str]:
    """The names of all arrays in a record."""
    if isinstance(packed, dict):
        if "@" in packed:
            yield packed["@"]
        packed = list(packed.values())
    if isinstance(packed, list):
        for inner in packed:
            yield from _names(inner)


def _packed_arrays(arrays: dict[str, NDArray[Any]]) -> bytes:
    """A file that :func:`numpy.load` reads; unlike numpy's own it says nothing of when it was written."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
