"""`indattn plot`: from the results tree to figures and the tables of the numbers in them."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from indattn import (
    ablations,
    alignment_pages,
    alignment_tables,
    figures,
    heads,
    lookups,
    pareto,
    readings,
    retrieval,
    retrieval_pages,
    tuning,
)
from indattn.alignment_results import is_alignment
from indattn.errors import UserError, nearest
from indattn.runs import Run, atomic, named_runs, select_runs
from indattn.statistics import interquartile_mean, mean_interval
from indattn.tables import slug
from indattn.variants import default_settings, flat_identity, variants

__all__ = [
    "curve_table",
    "describe_run",
    "recording",
    "run",
    "run_figures",
    "run_slug",
    "run_table",
    "summary",
]


def run_table(runs: list[Run]) -> pd.DataFrame:
    """One row a finished run: labels, scores, and in ``variant`` what else tells its configuration apart."""
    rows, settings = [], []
    for run in runs:
        result = run.result()
        rows.append(
            {
                **run.labels,
                "kind": result["kind"],
                "metric": result.get("metric", "accuracy"),
                "accuracy": result["test"]["accuracy"],
                "exact": result["test"].get("exact"),
                "validation_accuracy": result["validation"]["accuracy"],
                "train_loss": result["train_loss"],
                "steps_to_0.9": result["steps_to_0.9"],
                "steps": result["steps"],
                "chance": result["chance"],
                "validation_chance": result.get("validation_chance", result["chance"]),
                "ceiling": result["ceiling"],
                "parameters": result["parameters"],
                "seconds": result["seconds"],
                "path": str(run.path),
            }
        )
        settings.append(flat_identity(OmegaConf.to_container(run.config(), resolve=True)))
    table = pd.DataFrame(rows)
    for column in ("steps_to_0.9", "ceiling"):
        table[column] = table[column].astype(float)
    table["variant"] = variants(table, settings)
    return table


def curve_table(runs: list[Run]) -> pd.DataFrame:
    """One row an evaluation of a run: its labels, ``step``, ``accuracy``, ``loss``, ``train_loss``."""
    rows = [
        {**run.labels, **{key: line[key] for key in ("step", "accuracy", "loss", "train_loss")}}
        for run in runs
        for line in run.metrics()
    ]
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean, 95% interval, interquartile mean and median steps to 0.9 over seeds, for each combination of ``by``."""
    rows = []
    for key, group in table.groupby(by, sort=True):
        interval = mean_interval(group["accuracy"].tolist())
        reached = group["steps_to_0.9"].notna()
        median = group["steps_to_0.9"].fillna(float("inf")).median()
        rows.append(
            {
                **dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True)),
                "seeds": interval.count,
                "accuracy": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "interquartile_mean": interquartile_mean(group["accuracy"].tolist()),
                "reached_0.9": int(reached.sum()),
                "median_steps_to_0.9": None if median == float("inf") else median,
                "steps": group["steps"].max(),
                "chance": group["chance"].iloc[0],
                "ceiling": group["ceiling"].iloc[0],
                "parameters": int(group["parameters"].median()),
                "seconds": group["seconds"].median(),
            }
        )
    return pd.DataFrame(rows)


def paired(table: pd.DataFrame, by: list[str], model: str = "indirect") -> pd.DataFrame:
    """Differences in accuracy between every two models, paired by seed, with a 95% interval.

    ``model`` comes first: it is what others are subtracted from.
    """
    rows = []
    for key, group in table.groupby(by, sort=True):
        wide = group.pivot_table(index="seed", columns="model", values="accuracy")
        order = sorted(wide.columns, key=lambda name: (name != model, name))
        for one, other in itertools.combinations(order, 2):
            difference = (wide[one] - wide[other]).dropna()
            if difference.empty:
                continue
            interval = mean_interval(difference.tolist())
            rows.append(
                {
                    **dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True)),
                    "difference": f"{one} - {other}",
                    "seeds": interval.count,
                    "mean": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                }
            )
    return pd.DataFrame(rows)


def describe_run(run: Run) -> str:
    """A run in a figure's title; its hash tells it from others that differ in another choice."""
    labels = run.labels
    task = labels["task"].replace("_", " ")
    return f"{task}, {labels['model']}, noise {labels['noise']:g}, seed {labels['seed']}, run {run.path.name}"


def recording(run: Run, name: str = "recording") -> dict[str, np.ndarray]:
    """A run's recording; empty if it has none."""
    path = run.path / f"{name}.npz"
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def run_figures(run: Run) -> None:
    """Draw a finished run's own figures into its folder."""
    runs = run_table([run]).assign(variant="")
    folder = run.path / "figures"
    figures.save(
        figures.learning_curves(curve_table([run]).assign(variant=""), runs, "variant", "noise", describe_run(run)),
        folder / "learning_curve",
    )
    after = recording(run)
    if "bias_function" in after:
        figures.save(
            figures.bias_curves(recording(run, "recording_initial"), after, describe_run(run)), folder / "bias"
        )
    if "attention" in after:
        figures.save(figures.attention_maps(after, 0, f"{describe_run(run)}, test example 0"), folder / "attention")
    if "pair_attention" in after:
        pairs = retrieval_pages.pairs_of(run)
        figures.save(retrieval_pages.centres_figure(pairs, after, describe_run(run)), folder / "centres")
    if "layer_spans" in after:
        figures.save(alignment_pages.spans_figure(after, 0, describe_run(run)), folder / "spans")


class Plotter:
    """Draws the figures that a selection of runs allows.

    Args:
        runs: the selection.
        out: results folder; figures go to ``figures/``, tables to ``tables/``.
        example: index of the example whose attention is drawn.
        suffix: of all files' names.
    """

    def __init__(self, runs: list[Run], out: Path, example: int = 0, suffix: str = "") -> None:
        # However they were named: the same runs make the same files.
        self.runs = sorted((run for run in runs if run.known), key=lambda run: tuple(run.labels.values()))
        self.out, self.example, self.suffix = out, example, f"-{suffix}" if suffix else ""
        self.table = run_table(self.runs) if self.runs else pd.DataFrame()
        self.written: list[Path] = []
        self.numbers: retrieval.Numbers | None = None
        self.placed: alignment_tables.Numbers | None = None

    def curves(self) -> None:
        """Learning curves, a figure a task; final scores and steps to 0.9, a table."""
        for task, table in self.table.groupby("task"):
            curves = self._curves(table)
            figure = figures.learning_curves(curves, table, "variant", "noise", str(task).replace("_", " "))
            self.save_figure(figure, f"curves-{task}")
            self.save_table(summary(table, ["task", "kind", "noise", "variant", "model"]), f"curves-{task}")

    def noise(self) -> None:
        """Score against noise, a figure a task, kind and variant with at least two levels.

        The variant nearest to the defaults (of those, the one with most runs) is ``noise-<task>`` whatever else is
        there; the names of the others say in what they differ from it.
        """
        for task, of_task in self.table.groupby("task"):
            if is_alignment(Run(Path(of_task["path"].iloc[0]))):
                alignment_tables.error_figures(self)
                continue
            for name, title, table in self.variants(str(task), of_task):
                if retrieval.is_retrieval(Run(Path(table["path"].iloc[0]))):
                    retrieval.noise_figures(self, name, title, str(table["variant"].iloc[0]))
                else:
                    self._noise(f"noise-{name}", table, title)

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

    def _noise(self, name: str, table: pd.DataFrame, title: str) -> None:
        self.save_figure(figures.noise_curve(table, title), name)
        self.save_table(summary(table, ["task", "kind", "noise", "model"]), name)
        self.save_table(paired(table, ["task", "kind", "noise"]), f"{name}-paired")
        self.save_table(table.drop(columns=["path", "variant"]), f"{name}-runs")
        self.save_table(
            self._curves(table)[["model", "noise", "seed", "step", "accuracy", "loss", "train_loss"]],
            f"{name}-curves",
        )

    def figure2(self) -> None:
        """The paper's two tasks without noise: learning curves, scores and paired differences by reading."""
        table = self.table
        if not self.table.empty:
            table = table[table["task"].isin(readings.PAPER_TASKS) & (table["noise"] == 0)]
        if table.empty:
            return
        # Readings are compared across both tasks: name them by what differs within these runs alone.
        runs = [Run(Path(path)) for path in table["path"]]
        table = run_table(runs)
        self.save_figure(
            figures.learning_curves(self._curves(table), table, "variant", "task", "Figure 2 of the paper, by reading"),
            "figure2",
        )
        columns = ["task", "variant", "model"]
        self.save_table(summary(table, columns), "figure2")
        self.save_table(paired(table, columns[:2]), "figure2-paired")
        self.save_table(table.drop(columns="path"), "figure2-runs")
        self.save_table(
            self._curves(table)[["task", "variant", "model", "seed", "step", "accuracy", "loss", "train_loss"]],
            "figure2-curves",
        )

    def figure3(self) -> None:
        """The bias of each layer and head, of the first seed of each kind of run that has one."""
        for run in self.representatives():
            after, before = recording(run), recording(run, "recording_initial")
            if "bias_function" in after and before:
                self.save_figure(
                    figures.bias_curves(before, after, f"Bias f: {self.described(run)}"),
                    f"figure3-{run_slug(run)}",
                )

    def attention(self) -> None:
        """Attention maps of one test example, of the first seed of each kind of run."""
        for run in self.representatives():
            recorded = recording(run)
            if "attention" not in recorded:
                continue
            examples = recorded["attention"].shape[1]
            if not 0 <= self.example < examples:
                raise UserError(f"example={self.example}: the run keeps examples 0 to {examples - 1}")
            title = f"Attention: {self.described(run)}, test example {self.example}"
            self.save_figure(
                figures.attention_maps(recorded, self.example, title),
                f"attention-{run_slug(run)}-example-{self.example}",
            )

    def _curves(self, table: pd.DataFrame) -> pd.DataFrame:
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


def run_slug(run: Run) -> str:
    """A run in the name of a file."""
    labels = run.labels
    return f"{labels['task']}-{labels['model']}-noise-{labels['noise']:.2f}-seed-{labels['seed']}-{labels['hash']}"


FIGURES: dict[str, Callable[[Plotter], None]] = {
    "curves": Plotter.curves,
    "noise": Plotter.noise,
    "figure2": Plotter.figure2,
    "readings": readings.readings,
    "figure3": Plotter.figure3,
    "attention": Plotter.attention,
    "retrieval": retrieval.retrieval,
    "retrieved": retrieval_pages.retrieved,
    "centres": retrieval_pages.centres,
    "alignment": alignment_tables.alignment,
    "spans": alignment_pages.spans,
    "ablations": ablations.ablations,
    "heads": heads.heads,
    "tuning": tuning.tuning,
    "pareto": pareto.pareto,
    "lengths": lookups.lengths,
    "slips": lookups.slips,
}


def run(config: DictConfig) -> None:
    """The verb ``plot``."""
    names = list(config.figure or [])
    for name in names:
        if name not in FIGURES:
            raise UserError(f"figure {name!r}: there is none of that name{nearest(name, FIGURES)}")
    runs = named_runs(config)
    for one in runs:
        one.result()
    runs = runs or select_runs(config)
    unfinished = sum(not one.known for one in runs)
    if unfinished:
        print(f"{unfinished} of {len(runs)} runs are not done and left out", file=sys.stderr)
    runs = [one for one in runs if one.known]
    if not runs:
        raise UserError(f"no finished run matches in {config.results_dir}; `indattn show` lists what there is")
    if config.suffix and not re.fullmatch(r"[\w.-]+", str(config.suffix)):
        raise UserError(f"suffix={config.suffix}: must be of letters, digits, - and _")
    plotter = Plotter(runs, Path(config.results_dir), config.example, str(config.suffix or ""))
    for name in names or FIGURES:
        FIGURES[name](plotter)
    if not plotter.written:
        raise UserError(f"the {len(runs)} runs that match do not make {' or '.join(names)}; see indattn plot --help")
    for path in plotter.written:
        print(path)
