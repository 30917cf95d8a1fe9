"""Where prepared corpora and features lie, outside any project: they cost minutes to make and nothing to delete.

What is made lies in a folder of its own with a ``manifest.json``, which says what it was made of and has size and
SHA-256 of each file. A folder appears complete or not at all, and is held against its manifest when it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
from filelock import FileLock, Timeout

from indattn.errors import UserError

__all__ = ["cache_dir", "cached", "damage", "digest_of", "manifest"]

Made = TypeVar("Made")


def cache_dir() -> Path:
    """The folder ``$INDATTN_CACHE``, or the one the system keeps for caches (``~/.cache/indattn`` on Linux)."""
    own = os.environ.get("INDATTN_CACHE")
    return Path(own).expanduser() if own else Path(platformdirs.user_cache_dir("indattn", appauthor=False))


def digest_of(identity: Mapping[str, Any]) -> str:
    """SHA-256 of what something is made of, in hexadecimal."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def cached(
    folder: Path,
    what: str,
    read: Callable[[], Made | str | None],
    make: Callable[[Path], None],
) -> tuple[Made, bool]:
    """What a folder holds: read if it is there, or else made.

    It appears complete or not at all: a process that is killed leaves nothing that would be read, and another that
    wants the same waits for the first and reads what it made. What is damaged is made anew; a line on stderr says so.

    Args:
        folder: where it lies.
        what: what is made, in the plural, for messages.
        read: gives what the folder holds, what is wrong with it, or ``None`` where there is none.
        make: fills the empty folder it is given, which is then moved to ``folder``.

    Returns:
        What was read, and whether it was made by this call.

    Raises:
        UserError: if the folder cannot be written.
    """
    found = read()
    if found is not None and not isinstance(found, str):
        return found, False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder, what):
            found = read()
            if found is not None and not isinstance(found, str):  # made by another process meanwhile
                return found, False
            if found is not None:
                print(f"{folder}: damaged {what} ({found}), made anew", file=sys.stderr)
            _replace(folder, make)
            found = read()
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    if found is None or isinstance(found, str):
        raise UserError(f"{folder}: damaged as soon as it was written ({found}); is the disk sound?")
    return found, True


@contextlib.contextmanager
def _locked(folder: Path, what: str) -> Iterator[None]:
    """Be the one process that makes a folder; says so when it has to wait."""
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{folder}: another process is making these {what}; waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _replace(folder: Path, make: Callable[[Path], None]) -> None:
    """Make everything beside the folder, then put it there in one step. The caller holds the lock."""
    for dead in folder.parent.glob(f".{folder.name}-*"):  # of processes that were killed
        shutil.rmtree(dead, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        make(made)
        if folder.exists():
            os.replace(folder, Path(temporary) / "old")
        os.replace(made, folder)


def manifest(folder: Path, names: Iterable[str], **content: Any) -> None:
    """Write ``manifest.json``: the content, and what the named files are like."""
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in names}
    text = json.dumps({**content, "files": files}, indent=1)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")


def damage(folder: Path, names: Iterable[str], **content: Any) -> str | None:
    """What is wrong with a folder: its manifest says other things, or a file is not as it was written.

    Raises:
        OSError, ValueError, KeyError, TypeError: if the manifest is missing or no manifest, or a file is missing.
    """
    listed = json.loads((folder / "manifest.json").read_bytes())
    if any(listed[key] != value for key, value in content.items()):
        return "manifest.json is of other inputs"
    for name in names:
        path, file = folder / name, listed["files"][name]
        if path.stat().st_size != file["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, not {file['bytes']}"
        if _sha256(path) != file["sha256"]:
            return f"{name} is not as it was written"
    return None


def _sha256(path: Path) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()
