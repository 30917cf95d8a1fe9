"""A hash of the code that can change a run's numbers, so that records made by other code are known. No torch here.

The code of a run is what its task, model and misalignment import, directly or by others, as far as it belongs to the
packages that these come from, and the training loop. Comments, docstrings and blank lines do not count, nor do
installed libraries: their versions stand in the result.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

__all__ = ["code_hash", "hash_of", "modules_of", "roots_of"]

GROUPS = ("task", "model", "misalignment")

#: The loop and how a configuration becomes objects: part of every run. What these import is not followed, because the
#: loop also ends in figures.
ALWAYS = ("indattn.build", "indattn.distributed", "indattn.training")
NEVER = ("indattn.errors", "indattn.recording", "indattn.runs", "indattn.store", "indattn.provenance")
"""What says and writes, and changes no number."""


def code_hash(config: DictConfig) -> str:
    """Eight hex digits over the code that can change the numbers of a configuration's run."""
    return hash_of(roots_of(config))


def roots_of(config: DictConfig) -> tuple[str, ...]:
    """The modules of a configuration's task, model and misalignment."""
    return tuple(str(config[group].get("_target_", "")).rpartition(".")[0] for group in GROUPS)


@functools.cache
def hash_of(roots: tuple[str, ...]) -> str:
    """:func:`code_hash` of the runs whose task, model and misalignment are in some modules."""
    digest = hashlib.sha256()
    files = modules_of(roots)
    for name in sorted(files):
        digest.update(f"{name}\n{_stripped(files[name].read_bytes())}\n".encode())
    return digest.hexdigest()[:8]


def modules_of(roots: tuple[str, ...]) -> dict[str, Path]:
    """The modules behind some modules: those, what they import of their own packages, and the training loop."""
    packages = {"indattn", *(root.partition(".")[0] for root in roots if root)}
    found: dict[str, Path] = {}
    waiting = [root for root in roots if root]
    while waiting:
        name = waiting.pop()
        if name in found or name in NEVER or name.partition(".")[0] not in packages:
            continue
        file = _file(name)
        if file is not None:
            found[name] = file
            waiting += _imported(name, file)
    for name in ALWAYS:
        file = _file(name)
        if file is not None:
            found[name] = file
    return found


def _file(name: str) -> Path | None:
    """The source of a module; nothing is imported but the package at its top."""
    top, *parts = name.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not parts:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        place = Path(folder).joinpath(*parts)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return file
    return None


def _imported(name: str, file: Path) -> Iterator[str]:
    """What a module imports, at its top or inside functions; of a package's names also the modules they may be."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")
                base = ".".join([*above[: len(above) - node.level + 1], *([base] if base else [])])
            modules = [f"{base}.{alias.name}" for alias in node.names if _file(f"{base}.{alias.name}")]
            yield from modules
            if len(modules) < len(node.names):
                yield base


def _stripped(source: bytes) -> str:
    """Source without comments, docstrings and blank lines: the same under every version of Python."""
    text = source.decode()
    lines = text.splitlines()
    cuts: list[tuple[int, int, int, int]] = []
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and body:
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                cuts.append((first.lineno, first.col_offset, first.end_lineno or 0, first.end_col_offset or 0))
    for line in range(len(lines)):
        lines[line] = lines[line].rstrip()
    for begin, column, end, last in cuts:
        rest = lines[end - 1].encode()[last:].decode()
        lines[begin - 1 : end] = [lines[begin - 1].encode()[:column].decode() + rest, *[""] * (end - begin)]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip()
    return "\n".join(line for line in lines if line.strip())
