"""`indattn plot`: from the results tree to figures and the tables of the numbers in them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig

from indattn.errors import UserError, nearest
from indattn.plot import (
    ablations,
    alignment_pages,
    alignment_tables,
    curves,
    heads,
    lookups,
    pareto,
    readings,
    recorded,
    retrieval,
    retrieval_pages,
    tuning,
)
from indattn.plot.plotter import Plotter
from indattn.plot.recorded import run_figures
from indattn.runs import named_runs, select_runs
from indattn.tables import name_suffix

__all__ = ["FIGURES", "run", "run_figures"]

FIGURES: dict[str, Callable[[Plotter], None]] = {
    "curves": curves.curves,
    "noise": curves.noise,
    "figure2": curves.figure2,
    "readings": readings.readings,
    "figure3": recorded.figure3,
    "attention": recorded.attention,
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
    plotter = Plotter(runs, Path(config.results_dir), config.example, name_suffix(config))
    for name in names or FIGURES:
        FIGURES[name](plotter)
    if not plotter.written:
        raise UserError(f"the {len(runs)} runs that match do not make {' or '.join(names)}; see indattn plot --help")
    for path in plotter.written:
        print(path)
