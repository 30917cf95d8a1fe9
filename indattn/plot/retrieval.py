"""`indattn plot retrieval`: recall, ranks and paired differences of retrieval runs, test by test, both ways.

A *test* is one that a result has ranks of: ``unseen``, ``style`` (:mod:`indattn.tasks.cross_modal_retrieval`), and the
name of every other corpus that a run was evaluated on. No weights are read.
"""

from __future__ import annotations

import functools
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from indattn.data.pairs import Pairs, load_pairs
from indattn.errors import UserError
from indattn.plot import retrieval_figures
from indattn.plot.plotter import Plotter
from indattn.recall import chance, summarise
from indattn.runs import Run
from indattn.statistics import crossed_interval, mean_interval, probability_of_improvement

__all__ = ["MEASURES", "REFERENCES", "WAYS", "Ranked", "baselines", "corpus", "differences", "is_retrieval"]
__all__ += ["Numbers", "noise_figures", "ranked", "retrieval", "retrieval_runs", "run_rows", "summary"]

MEASURES = ("r1", "r5", "r10", "median", "mrr")
COMPARED = ("r1", "r10", "mrr")
WAYS = ("text_to_image", "image_to_text")
REFERENCES = ("dual", "uniform")
"""Models that all others are compared with; ``indirect`` is compared with all."""

UNSEEN = "unseen"
KEYS = ["variant", "test", "direction", "noise"]


@dataclass(frozen=True)
class Ranked:
    """One run's ranks in one test and direction.

    Attributes:
        labels: ``model``, ``noise``, ``seed``, ``variant``, ``test``, ``direction``.
        ranks: ``(queries,)``, from 1.
        queries: ``(queries,)``, rows of the corpus; runs of one test have the same.
        groups: ``(queries,)``, what is resampled together.
        chance: scores of a random order.
        cost: ``parameters`` and ``seconds`` of the run.
    """

    labels: dict[str, Any]
    ranks: NDArray[np.float64]
    queries: NDArray[np.int64]
    groups: NDArray[np.int64]
    chance: dict[str, float]
    cost: dict[str, float]

    @functools.cached_property
    def scores(self) -> dict[str, float]:
        """:data:`MEASURES` of the ranks."""
        return summarise(self.ranks)


def is_retrieval(run: Run) -> bool:
    """Whether a finished run ranks pictures and texts."""
    result = run.result()
    return "t2i_r1" in result["test"] and isinstance(result.get("per_example"), dict)


@functools.lru_cache(maxsize=4)
def corpus(data: str, images: str | None) -> Pairs:
    """A corpus, loaded once."""
    return load_pairs(data, images, needed=())


def both_ways(pairs: Pairs, test: dict[str, Any], labels: dict[str, Any], cost: dict[str, float]) -> Iterator[Ranked]:
    """The two directions of a test.

    Args:
        pairs: its corpus.
        test: ``texts``, ``images`` (rows) and ``text_ranks``, ``image_ranks`` in their order.
        labels, cost: as in :class:`Ranked`, but for the direction.
    """
    rows = {"text": np.asarray(test["texts"]), "image": np.asarray(test["images"])}
    items = {"text": pairs.text_items[rows["text"]], "image": pairs.image_items[rows["image"]]}
    for way in WAYS:
        of, _, to = way.partition("_to_")
        counts = np.bincount(items[to], minlength=len(pairs.groups))
        yield Ranked(
            labels={**labels, "direction": way},
            ranks=np.asarray(test[f"{of}_ranks"], float),
            queries=rows[of],
            groups=pairs.groups[items[of]],
            chance=_chance(len(items[to]), counts[items[of]].tobytes()),
            cost=cost,
        )


@functools.lru_cache(maxsize=64)
def _chance(candidates: int, relevant: bytes) -> dict[str, float]:
    return chance(candidates, np.frombuffer(relevant, np.int64))


def ranked(table: pd.DataFrame) -> list[Ranked]:
    """All ranks of some runs.

    Args:
        table: a row a run, with ``path`` and ``variant`` (:func:`indattn.plot.scores.run_table`).
    """
    found: list[Ranked] = []
    names: dict[str, str] = {}  # of other corpora, by what tells them apart
    for row in table.to_dict("records"):
        run = Run(Path(row["path"]))
        result = run.result()
        own = trained_on(run)
        labels = {"model": row["model"], "noise": row["noise"], "seed": row["seed"], "variant": row["variant"]}
        cost = {"parameters": result["parameters"], "seconds": result["seconds"]}
        pairs = recorded_corpus(own, run)
        for test, ranks in result["per_example"].items():
            found += both_ways(pairs, ranks, {**labels, "test": test}, cost)
        seen = {own.get("fingerprint", own["data"])}
        for evaluation in run.evaluations():
            if evaluation.get("data") is None:
                continue
            where = evaluation["corpus"]
            other = where["fingerprint"]
            if other in seen:  # evaluated at several levels, which change nothing there
                continue
            seen.add(other)
            stem = Path(where["data"]).stem
            taken = {UNSEEN, "style", *names.values()}
            names.setdefault(other, stem if stem not in taken else f"{stem}-{other[:6]}")
            test = {**labels, "test": names[other]}
            found += both_ways(recorded_corpus(where, run), evaluation["per_example"][UNSEEN], test, cost)
    return found


def trained_on(run: Run) -> dict[str, str]:
    """Where the corpus of a run lies and, unless an older version made it, the digest of what was in it."""
    task = run.config().task
    return run.result().get("corpus", {"data": task.data, "images": task.get("images")})


def recorded_corpus(where: dict[str, str], run: Run) -> Pairs:
    """The corpus a result speaks of.

    Raises:
        UserError: if it is another by now: the rows of its pictures and texts would not be those of the result.
    """
    pairs = corpus(where["data"], where.get("images"))
    if where.get("fingerprint", pairs.fingerprint) != pairs.fingerprint:
        raise UserError(f"{where['data']} has changed since {run.path} was made; train or evaluate it again")
    return pairs


def baselines(table: pd.DataFrame) -> list[Ranked]:
    """Text lookup and nearest neighbour on the style test, once for each level and seed there are runs of.

    Imports torch. What an encoder that is not there would be needed for is left out, and says so.
    """
    from indattn.build import build_misalignment, build_task
    from indattn.tasks.baselines import LOOKUPS, Lookup
    from indattn.tasks.cross_modal_retrieval import CrossModalRetrieval

    firsts = table.sort_values("path").groupby(["variant", "noise", "seed"])["path"].first()
    lookups: dict[str, list[Lookup]] = {}
    tests: dict[tuple[str, float, int], list[tuple[str, Any]]] = {}
    found: list[Ranked] = []
    for row in firsts.reset_index().to_dict("records"):
        config = Run(Path(row["path"])).config()
        settings = ("data", "images", "encoder", "held_out", "style_size")
        of = json.dumps({key: config.task.get(key) for key in settings})
        if of not in lookups:
            task = build_task(config)
            lookups[of] = []
            if isinstance(task, CrossModalRetrieval) and task.held_source is not None:
                names = [name for name in LOOKUPS if name != "frozen" or task.encoder == "frozen"]
                lookups[of] = [Lookup(task, name) for name in names]
        key = (of, float(row["noise"]), int(row["seed"]))
        if key not in tests:
            tests[key] = []
            for lookup in lookups[of].copy():
                misalignment = build_misalignment(config, lookup.task)
                try:
                    tests[key].append((lookup.name, lookup.test(misalignment, key[-1])))
                except UserError as error:
                    print(f"without the baseline {lookup.name!r}: {error}", file=sys.stderr)
                    lookups[of].remove(lookup)
        for name, test in tests[key]:
            labels = {**{label: row[label] for label in ("noise", "seed", "variant")}, "model": name, "test": "style"}
            pairs = lookups[of][0].task.pairs
            found += both_ways(pairs, test, labels, {"parameters": 0, "seconds": np.nan})
    return found


# Tables ------------------------------------------------------------------------------------------------------


def run_rows(found: Iterable[Ranked]) -> pd.DataFrame:
    """A row a run, test and direction: its scores."""
    rows = [{**one.labels, **one.scores, **one.cost} for one in found]
    return pd.DataFrame(rows)[[*KEYS, "model", "seed", *MEASURES, "parameters", "seconds"]].sort_values(KEYS)


def summary(found: Iterable[Ranked]) -> pd.DataFrame:
    """A row a test, direction, level and model: means, their 95% intervals over seeds, and what chance has."""
    rows = []
    for key, of in _grouped(found, [*KEYS, "model"]):
        row = dict(zip([*KEYS, "model"], key, strict=True)) | {"seeds": len(of)}
        for measure in MEASURES:
            interval = mean_interval([one.scores[measure] for one in of])
            row |= {measure: interval.mean, f"{measure}_low": interval.low, f"{measure}_high": interval.high}
            row[f"{measure}_chance"] = of[0].chance[measure]
        row["parameters"] = int(np.median([one.cost["parameters"] for one in of]))
        row["seconds"] = float(np.median([one.cost["seconds"] for one in of]))
        rows.append(row)
    return pd.DataFrame(rows)


def differences(found: Iterable[Ranked]) -> pd.DataFrame:
    """Differences of every model and each reference, and of ``indirect`` and every model, paired by seed.

    Columns ``mean``, ``low``, ``high``: over seeds (Student's t). ``crossed_low``, ``crossed_high``: over seeds and
    groups of concepts, both resampled (:func:`~indattn.statistics.crossed_interval`). ``improvement``: part of the
    pairs of runs in which ``model`` scores higher than ``less``.
    """
    rows = []
    for key, of in _grouped(found, KEYS):
        models = {name: {one.labels["seed"]: one for one in runs} for (name,), runs in _grouped(of, ["model"])}
        wanted = [(model, less) for less in REFERENCES for model in models] + [("indirect", less) for less in models]
        for model, less in dict.fromkeys(wanted):
            if model == less or not {model, less} <= set(models):
                continue
            seeds = sorted(set(models[model]) & set(models[less]))
            if not seeds:
                continue
            pairs = [(models[model][seed], models[less][seed]) for seed in seeds]
            values = np.stack([_per_query(one) - _per_query(other) for one, other in pairs], axis=1)
            low, high = crossed_interval(values, pairs[0][0].groups)
            for number, measure in enumerate(COMPARED):
                interval = mean_interval(values[number].mean(1).tolist())
                a, b = ([one.scores[measure] for one in models[name].values()] for name in (model, less))
                rows.append(
                    {
                        **dict(zip(KEYS, key, strict=True)),
                        "measure": measure,
                        "model": model,
                        "less": less,
                        "seeds": len(seeds),
                        "mean": interval.mean,
                        "low": interval.low,
                        "high": interval.high,
                        "crossed_low": low[number],
                        "crossed_high": high[number],
                        "improvement": probability_of_improvement(a, b),
                    }
                )
    columns = [*KEYS, "measure", "model", "less", "seeds", "mean", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "crossed_low", "crossed_high", "improvement"])


def _per_query(one: Ranked) -> NDArray[np.float64]:
    """``(3, queries)``: what each query gives to :data:`COMPARED`, whose means they are."""
    return np.stack([one.ranks <= 1, one.ranks <= 10, 1 / one.ranks]).astype(float)


def _grouped(found: Iterable[Ranked], keys: list[str]) -> Iterator[tuple[tuple[Any, ...], list[Ranked]]]:
    def key(one: Ranked) -> tuple[Any, ...]:
        return tuple(one.labels[name] for name in keys)

    for value, group in itertools.groupby(sorted(found, key=lambda one: (*map(_order, key(one)),)), key):
        yield value, list(group)


def _order(value: Any) -> tuple[int, Any]:
    """Tests and directions in their own order, before other names."""
    order = (UNSEEN, "style", *WAYS)
    return (order.index(value), "") if value in order else (len(order), value)


# Commands ----------------------------------------------------------------------------------------------------


def retrieval(plotter: Plotter) -> None:
    """Tables of all retrieval runs that are selected, and their figures against noise."""
    numbers = Numbers.of(plotter)
    if not numbers.found:
        return
    plotter.save_plain(numbers.summary, "retrieval")
    plotter.save_plain(numbers.differences, "retrieval-differences")
    plotter.save_plain(run_rows(numbers.found), "retrieval-runs")
    for task, of_task in retrieval_runs(plotter).groupby("task"):
        for name, title, of in plotter.variants(str(task), of_task):
            noise_figures(plotter, name, title, str(of["variant"].iloc[0]))


def noise_figures(plotter: Plotter, name: str, title: str, variant: str) -> None:
    """R@10 of one variant against noise, and its differences from :data:`REFERENCES`; once a command."""
    if any(path.stem == f"noise-{name}" for path in plotter.written):
        return
    numbers = Numbers.of(plotter)
    means, differ = (table[table["variant"] == variant] for table in (numbers.summary, numbers.differences))
    plotter.save_figure(retrieval_figures.recall_curves(means, title), f"noise-{name}")
    plotter.save_plain(means, f"noise-{name}")
    for less, stem in (("uniform", "differences"), ("dual", "differences-dual")):
        of = differ[(differ["less"] == less) & (differ["measure"] == "r10") & (differ["model"] != "pixels")]
        if len(of):
            plotter.save_figure(retrieval_figures.difference_panels(of, less, title), f"{stem}-{name}")
            plotter.save_plain(of, f"{stem}-{name}")


def retrieval_runs(plotter: Plotter) -> pd.DataFrame:
    """The selection's rows of runs that rank pictures and texts."""
    table = plotter.table
    first = {task: is_retrieval(Run(Path(path))) for task, path in table.groupby("task")["path"].first().items()}
    return table[table["task"].map(first).astype(bool)]


@dataclass
class Numbers:
    """Ranks of a selection and of the baselines, and the tables of them; read once a command."""

    found: list[Ranked]

    @classmethod
    def of(cls, plotter: Plotter) -> Numbers:
        """Those of a plotter's selection."""
        return plotter.once(cls._read)

    @classmethod
    def _read(cls, plotter: Plotter) -> Numbers:
        table = retrieval_runs(plotter)
        return cls([*ranked(table), *baselines(table)] if len(table) else [])

    @functools.cached_property
    def summary(self) -> pd.DataFrame:
        """:func:`summary`."""
        return summary(self.found)

    @functools.cached_property
    def differences(self) -> pd.DataFrame:
        """:func:`differences`."""
        return differences(self.found)
