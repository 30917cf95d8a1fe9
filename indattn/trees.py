"""The configuration trees that are searched: the toolkit's own, those of installed packages, those of --config-dir.

A package offers a tree of its own (``model/``, ``task/``, ``misalignment/``, ...) by an entry point of the group
``indattn.configs`` whose value is the package, inside its own, that the yaml files lie in. No package is imported to
find its tree, and this module imports nothing heavy: help stays quick.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from indattn.errors import UserError

__all__ = ["ENTRY_POINTS", "configs_dir", "find_option", "group_options", "package_folder", "trees", "use", "used"]

ENTRY_POINTS = "indattn.configs"


def configs_dir() -> Path:
    """The toolkit's configuration tree: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    shipped = package / "configs"
    return shipped if shipped.is_dir() else package.parent / "configs"


def package_folder(package: str) -> Path | None:
    """The folder of an importable package; its top level is found, nothing is imported."""
    top, *below = package.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    locations = (spec and spec.submodule_search_locations) or ()
    return next((folder for folder in (Path(place, *below).resolve() for place in locations) if folder.is_dir()), None)


@functools.cache
def installed() -> tuple[Path, ...]:
    """Trees of installed packages, in the order of their names.

    Raises:
        UserError: if an entry point names a package that is not there.
    """
    from importlib.metadata import entry_points

    found: dict[Path, None] = {}
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: (entry.name, entry.value)):
        folder = package_folder(entry.value)
        if folder is None:
            whose = f" of {entry.dist.name}" if entry.dist else ""
            raise UserError(
                f"entry point {entry.name}={entry.value}{whose}: there is no such package with configurations; "
                "install it again, or remove it"
            )
        found[folder] = None
    return tuple(found)


#: Trees that this command or job was given beside those.
_given: list[Path] = []


def use(folders: Iterable[str | Path]) -> None:
    """Search these folders too, in place of those given before.

    Raises:
        UserError: if one is not there, or a file of it has the name of another tree's: only the first would be read.
    """
    _given.clear()
    for folder in folders:
        path = Path(folder).resolve()
        if not path.is_dir():
            raise UserError(f"--config-dir {folder}: no such folder")
        if path not in trees():
            _given.append(path)
    files: dict[Path, Path] = {}
    for tree in trees() if len(trees()) > 1 else ():
        for file in sorted(tree.rglob("*.yaml")):
            first = files.setdefault(file.relative_to(tree), file)
            if first is not file and first.read_bytes() != file.read_bytes():
                raise UserError(f"{file}: {first} has the same name and would be read in its place; give it another")


def used(sources: Iterable[Any]) -> list[Path]:
    """The folders among the sources that a Hydra job was composed from, which it knows in other processes too."""
    own = [source for source in sources if source.provider not in ("hydra", "main", "schema")]
    folders = [package_folder(one.path) if one.schema == "pkg" else Path(one.path) for one in own]
    return [folder for folder in folders if folder is not None]


def trees() -> list[Path]:
    """All trees, in the order in which they are searched."""
    return [configs_dir(), *installed(), *_given]


def group_options(group: str) -> list[str]:
    """Names of the files of a config group."""
    return sorted({path.stem for tree in trees() for path in (tree / group).glob("*.yaml")})


def find_option(group: str, name: str) -> Path | None:
    """A file of a config group."""
    files = (tree / group / f"{name}.yaml" for tree in trees())
    return next((file for file in files if file.is_file()), None)
