"""The results tree: where a run lives, how its files are written, and how runs are found again. No torch here.

Layout::

    <results>/runs/<task>/<model>/noise-<x.xx>/seed-<k>/<hash>/
        config.yaml           complete and resolved
        metrics.jsonl         a line an evaluation
        result.json           written last: its presence means done
        initial.safetensors   weights before training
        model.safetensors     weights after training
        recording.npz         bias curves, centres, sharpness, attention maps (recording_initial.npz: before training)
        trainer.pt            state to resume from, and trainer-before.pt the one before it (removed when done)
        evaluations/          results on other noise levels, kinds and test sets
        figures/

A run whose folder is missing may be in the record (:mod:`indattn.store`): it has a configuration, a result and a curve,
but no weights.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import tempfile
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from indattn.config import config_hash
from indattn.errors import UserError
from indattn.store import Record, find_record, load_records, per_example

__all__ = [
    "BEFORE",
    "LABELS",
    "LAST",
    "Run",
    "atomic",
    "find_runs",
    "named_runs",
    "noise_name",
    "open_run",
    "other_version",
    "scan",
    "select_runs",
    "wanted",
    "write_json",
]

FORMAT = 1

LABELS = ("task", "model", "noise", "seed", "hash")
"""What the folders above a run's files say of it."""

LAST, BEFORE = "trainer.pt", "trainer-before.pt"
"""The saved states of an unfinished run: the last, and the one before it."""


@contextlib.contextmanager
def atomic(path: Path, mode: str = "w", keep: Path | None = None) -> Iterator[IO[Any]]:
    """A file that appears complete or not at all: written beside, synced, renamed, and its folder synced.

    Args:
        path: the file.
        mode: ``w`` or ``wb``.
        keep: the name that a file already there gets once the new one is complete.

    Raises:
        UserError: if the folder cannot be written or the disk is full.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _sync_folder(folder: Path) -> None:
    """Write a folder's names to the disk: POSIX lets a power failure undo a rename until then."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync a folder
            raise
    finally:
        os.close(handle)


def noise_name(noise: float) -> str:
    """A level in the name of a file: two decimals, more where it has more."""
    short = f"{noise:.2f}"
    return short if float(short) == noise else repr(float(noise))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    with atomic(path) as file:
        json.dump(value, file, indent=1)
        file.write("\n")


def other_version(file: Path, version: Any) -> UserError:
    """The complaint about a file that another version of this project wrote."""
    age = "a newer" if isinstance(version, int) and version > FORMAT else "an older"
    return UserError(
        f"{file} is of {age} version of indattn: it has format {version}, this version reads {FORMAT}; "
        "use that version, or train the run again with force=true"
    )


@dataclass(frozen=True)
class Run:
    """A run's folder, whether or not it exists yet."""

    path: Path

    @classmethod
    def of(cls, config: DictConfig) -> Run:
        """The folder of a complete configuration.

        Raises:
            UserError: if the results folder, or the name of the task or model, cannot name a folder.
        """
        if not config.results_dir:
            raise UserError(f"results_dir={config.results_dir}: must be a folder")
        for group in ("task", "model"):
            if not re.fullmatch(r"\w[\w.+-]*", str(config[group].name)):
                raise UserError(f"{group}.name={config[group].name!r}: must be a plain word, it names a folder")
        return cls(
            Path(config.results_dir)
            / "runs"
            / config.task.name
            / config.model.name
            / f"noise-{noise_name(config.noise)}"
            / f"seed-{config.seed}"
            / config_hash(config)
        )

    @property
    def done(self) -> bool:
        """Whether it finished here: all of its files are there."""
        return (self.path / "result.json").is_file()

    @property
    def known(self) -> bool:
        """Whether it has a result: in its folder, or in the record."""
        return self.done or self.record is not None

    @property
    def state(self) -> str:
        """``done``, ``recorded`` (see :attr:`known`), ``unfinished`` (can be resumed), ``started``, or ``new``."""
        if self.done:
            return "done"
        if self.record is not None:
            return "recorded"
        if any((self.path / name).is_file() for name in (LAST, BEFORE)):
            return "unfinished"
        return "started" if (self.path / "config.yaml").is_file() else "new"

    @property
    def results_dir(self) -> Path:
        """The results tree it is in."""
        return self.path.parents[5]

    @property
    def key(self) -> str:
        """Its folder below ``runs/``, which names it wherever the tree lies."""
        return "/".join(self.path.parts[-5:])

    @property
    def record(self) -> Record | None:
        """What the record says of it, if anything.

        Raises:
            UserError: if the record is damaged.
        """
        if len(self.path.parts) < 6 or self.path.parts[-6] != "runs":
            return None
        return find_record(self.results_dir, self.key)

    def config(self) -> DictConfig:
        """Its resolved configuration.

        Raises:
            UserError: if it is missing or damaged.
        """
        file = self.path / "config.yaml"
        if not self.done and (record := self.record) is not None:
            return typing.cast(DictConfig, OmegaConf.create(record["config"]))
        try:
            config = OmegaConf.load(file)
            if not isinstance(config, DictConfig):
                raise ValueError("not a mapping")
            config_hash(config)
        except FileNotFoundError as error:
            raise UserError(f"{self.path} is not a run: it has no config.yaml") from error
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{file} is damaged ({reason}); train the run again with force=true") from error
        return config

    def result(self) -> dict[str, Any]:
        """The contents of ``result.json``.

        Raises:
            UserError: if the run is unfinished, its result damaged, or of another version.
        """
        file = self.path / "result.json"
        if not file.is_file():
            if (record := self.record) is not None:
                return self._recorded(record, record["result"])
            raise UserError(f"{self.path} is {self.state}, not done: finish it with the train command that began it")
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            if result["format"] != FORMAT:
                raise other_version(file, result["format"])
            result["test"]["accuracy"]
        except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise UserError(f"{file} is damaged ({error}); train the run again with force=true") from error
        return result

    def _recorded(self, record: Record, scored: dict[str, Any]) -> dict[str, Any]:
        if "per_example" not in scored:
            return scored
        return {**scored, "per_example": per_example(self.results_dir, record, scored["per_example"])}

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; a last line cut short is left out."""
        file = self.path / "metrics.jsonl"
        if not self.done and (record := self.record) is not None:
            return record["curve"]
        if not file.is_file():
            return []
        lines: list[dict[str, Any]] = []
        text = file.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(text, 1):
            try:
                lines.append(json.loads(line))
            except ValueError as error:
                if number == len(text):
                    break
                raise UserError(f"{file}, line {number}, is damaged; train the run again with force=true") from error
        return lines

    def evaluations(self) -> list[dict[str, Any]]:
        """Results of ``indattn evaluate``, one a noise level, kind and test seed."""
        if not self.done and (record := self.record) is not None:
            return [self._recorded(record, evaluation) for evaluation in record["evaluations"]]
        return [json.loads(f.read_text(encoding="utf-8")) for f in sorted(self.path.glob("evaluations/*.json"))]

    @property
    def labels(self) -> dict[str, Any]:
        """Task, model, noise, seed and hash, read from the folder's name."""
        task, model, noise, seed, digest = self.path.parts[-5:]
        values = task, model, float(noise.removeprefix("noise-")), int(seed.removeprefix("seed-")), digest
        return dict(zip(LABELS, values, strict=True))


def open_run(path: str | Path) -> Run:
    """The run at a path, or in the record under it.

    Raises:
        UserError: if there is no run.
    """
    folder = Path(str(path))
    if not folder.is_dir():
        if (run := Run(folder.absolute())).known:
            return run
        raise UserError(f"{path}: no such folder; `indattn show` lists the runs there are")
    if not (folder / "config.yaml").is_file():
        inside = next(iter(sorted(folder.glob("**/config.yaml"))), None)
        hint = f"; a run below it: {inside.parent}" if inside else "; `indattn show` lists the runs there are"
        raise UserError(f"{path} is not a run: it has no config.yaml{hint}")
    run = Run(folder.resolve())
    try:
        run.labels  # noqa: B018
    except ValueError as error:
        raise UserError(f"{path} is not in a results tree: .../runs/TASK/MODEL/noise-X/seed-K/HASH") from error
    return run


def wanted(value: Any, chosen: Any) -> bool:
    """Whether a filter lets a value through: ``None`` any, a list its members, another value itself."""
    return chosen is None or value in (chosen if isinstance(chosen, list) else [chosen])


def scan(
    results_dir: str | Path, task: Any = None, model: Any = None, noise: Any = None, seed: Any = None
) -> Iterator[tuple[Run, dict[str, Any], dict[str, os.DirEntry[str]]]]:
    """Folders of runs below a results tree: the run, its labels, and what lies in its folder by name.

    Folders that no filter lets through are not read.
    """
    filters = (task, model, noise, seed, None)

    def label(level: int, name: str) -> Any:
        if level == 2:
            return float(name.removeprefix("noise-")) if name.startswith("noise-") else None
        if level == 3:
            return int(name.removeprefix("seed-")) if name.startswith("seed-") else None
        return name

    def below(folder: str, level: int, labels: tuple[Any, ...]) -> Iterator[tuple[str, tuple[Any, ...], Any]]:
        try:
            entries = {entry.name: entry for entry in os.scandir(folder)}
        except (FileNotFoundError, NotADirectoryError):  # removed since it was listed, or a file
            return
        if level == len(filters):
            if "config.yaml" in entries:
                yield folder, labels, entries
            return
        for name, entry in entries.items():
            try:
                value = label(level, name)
            except ValueError:
                continue  # somebody's folder that only looks like a run's
            if value is not None and wanted(value, filters[level]) and entry.is_dir():
                yield from below(entry.path, level + 1, (*labels, value))

    for folder, values, entries in below(os.path.join(results_dir, "runs"), 0, ()):
        yield Run(Path(folder)), dict(zip(LABELS, values, strict=True)), entries


def find_runs(
    results_dir: str | Path,
    task: str | list[str] | None = None,
    model: str | list[str] | None = None,
    noise: float | list[float] | None = None,
    seed: int | list[int] | None = None,
    state: str | None = None,
) -> list[Run]:
    """Runs of a results tree and of its record, filtered by the parts of their path, ordered by them."""
    found = {tuple(labels.values()): run for run, labels, _ in scan(results_dir, task, model, noise, seed)}
    for key, record in load_records(Path(results_dir)).items():
        labels = tuple(record[name] for name in LABELS)
        if all(map(wanted, labels, (task, model, noise, seed, None))):
            found.setdefault(labels, Run(Path(results_dir) / "runs" / key))
    return [run for _, run in sorted(found.items()) if wanted(run.state if state else None, state)]


def named_runs(config: DictConfig) -> list[Run]:
    """The runs whose folders are given as ``run``; none if there are none.

    Raises:
        UserError: if one is no run, or filters are given too.
    """
    if not config.run:
        return []
    paths = list(config.run) if isinstance(config.run, ListConfig) else [config.run]
    filters = " ".join(f"{key}={value}" for key, value in config.where.items() if value is not None)
    if filters:
        raise UserError(f"{filters}: cannot be combined with run={','.join(map(str, paths))}; give one or the other")
    return [open_run(path) for path in paths]


def select_runs(config: DictConfig) -> list[Run]:
    """Runs of the tree ``results_dir`` that the filters under ``where`` leave."""
    return find_runs(config.results_dir, **typing.cast(dict[str, Any], OmegaConf.to_container(config.where)))
