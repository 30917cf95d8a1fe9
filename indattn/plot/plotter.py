"""What every figure of `indattn plot` is drawn with: a selection of runs, its variants, and where files go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd

from indattn import figures
from indattn.plot.scores import curve_table, run_table
from indattn.runs import Run, atomic
from indattn.tables import slug
from indattn.variants import default_settings

__all__ = ["Plotter", "describe_run", "recording", "run_slug"]

T = TypeVar("T")


class Plotter:
    """A selection of runs, and where figures and tables of it are written.

    Args:
        runs: the selection.
        out: results folder; figures go to ``figures/``, tables to ``tables/``.
        example: index of the example whose attention is drawn.
        suffix: of all files' names (:func:`indattn.tables.name_suffix`).
    """

    def __init__(self, runs: list[Run], out: Path, example: int = 0, suffix: str = "") -> None:
        # However they were named: the same runs make the same files.
        self.runs = sorted((run for run in runs if run.known), key=lambda run: tuple(run.labels.values()))
        self.out, self.example, self.suffix = out, example, suffix
        self.table = run_table(self.runs) if self.runs else pd.DataFrame()
        self.written: list[Path] = []
        self._read: dict[Callable[[Plotter], Any], Any] = {}

    def once(self, read: Callable[[Plotter], T]) -> T:
        """What a function reads from the selection, read once a command, whatever figures need it."""
        if read not in self._read:
            self._read[read] = read(self)
        return cast(T, self._read[read])

    def variants(self, task: str, of_task: pd.DataFrame, levels: int = 2) -> Iterator[tuple[str, str, pd.DataFrame]]:
        """Of each variant with so many levels: its name in files, its title, its runs."""
        drawn = {}
        for (kind, variant), table in of_task.groupby(["kind", "variant"]):
            if table["noise"].nunique() >= levels:
                settings = [f"kind={kind}", *(str(variant).split(", ") if variant else ())]
                drawn[tuple(dict.fromkeys(settings))] = table
        default = default_settings(task) if len(drawn) > 1 else set()
        plain = min(drawn, key=lambda v: (len(set(v) - default), -len(drawn[v]), v), default=())
        for variant, table in drawn.items():
            name = "-".join([task, *(slug(setting) for setting in variant if setting not in plain)])
            yield name, ", ".join([task.replace("_", " "), *variant]).replace("kind=", "kind ", 1), table

    def curves(self, table: pd.DataFrame) -> pd.DataFrame:
        """Learning curves of some runs of :attr:`table`, with their variants."""
        curves = curve_table([Run(Path(path)) for path in table["path"]])
        return curves.merge(table[["hash", "seed", "variant"]], on=["hash", "seed"])

    def described(self, run: Run) -> str:
        """:func:`describe_run`, and in what it differs from others of its task and model."""
        [variant] = self.table.loc[self.table["path"] == str(run.path), "variant"]
        return ", ".join(filter(None, [describe_run(run), variant]))

    def representatives(self) -> list[Run]:
        """The first seed of each kind of run."""
        if self.table.empty:
            return []
        firsts = (
            self.table.sort_values("seed")
            .groupby(["task", "model", "noise", "kind", "variant"], sort=True)["path"]
            .first()
        )
        return [Run(Path(path)) for path in firsts]

    def save_figure(self, figure: Any, name: str) -> None:
        """Write a figure, close it, and note the files."""
        self.written += figures.save(figure, self.out / "figures" / (name + self.suffix))

    def save_plain(self, table: pd.DataFrame, name: str) -> None:
        """:meth:`save_table`, without a variant where there is only one."""
        one = not table.empty and table["variant"].nunique() == 1
        self.save_table(table.drop(columns="variant") if one else table, name)

    def save_table(self, table: pd.DataFrame, name: str) -> None:
        """Write a table, unless it is empty, and note the file."""
        if table.empty:
            return
        path = self.out / "tables" / f"{name}{self.suffix}.csv"
        with atomic(path) as file:
            table.to_csv(file, index=False, float_format="%.6g", lineterminator="\n")
        self.written.append(path)


def describe_run(run: Run) -> str:
    """A run in a figure's title; its hash tells it from others that differ in another choice."""
    labels = run.labels
    task = labels["task"].replace("_", " ")
    return f"{task}, {labels['model']}, noise {labels['noise']:g}, seed {labels['seed']}, run {run.path.name}"


def run_slug(run: Run) -> str:
    """A run in the name of a file."""
    labels = run.labels
    return f"{labels['task']}-{labels['model']}-noise-{labels['noise']:.2f}-seed-{labels['seed']}-{labels['hash']}"


def recording(run: Run, name: str = "recording") -> dict[str, np.ndarray]:
    """A run's recording; empty if it has none."""
    path = run.path / f"{name}.npz"
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}
