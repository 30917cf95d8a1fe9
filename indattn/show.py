"""`indattn show`: the runs there are, or one of them."""

from __future__ import annotations

import json
import typing
from typing import Any

from omegaconf import DictConfig, OmegaConf

from indattn.errors import UserError, nearest
from indattn.index import run_rows
from indattn.runs import Run, named_runs
from indattn.tables import print_table

__all__ = ["run"]

COLUMNS = ["task", "model", "noise", "seed", "kind", "state", "accuracy", "steps_to_0.9", "seconds", "code", "path"]
STATES = ("done", "recorded", "unfinished", "started")


def run(config: DictConfig) -> None:
    """The verb ``show``."""
    if config.where.state not in (None, *STATES):
        raise UserError(f"state={config.where.state}: no such state{nearest(str(config.where.state), STATES)}")
    if named := named_runs(config):
        for one in named:
            show_one(one, config.format)
        return
    filters = typing.cast(dict[str, Any], OmegaConf.to_container(config.where))
    rows = run_rows(config.results_dir, **filters)
    if not rows and config.format == "table":
        print(f"no run matches in {config.results_dir}; indattn train --help shows how to make one")
        return
    print_table(rows, COLUMNS, config.format, title=f"{len(rows)} runs in {config.results_dir}")


def show_one(run: Run, form: str) -> None:
    """Print one run: configuration, scores, and its curve as a table."""
    config = run.config()
    metrics = run.metrics()
    result = run.result() if run.known else {}
    shown = {key: value for key, value in result.items() if key != "per_example"}
    if form == "json":
        print(
            json.dumps(
                {
                    "path": str(run.path),
                    "state": run.state,
                    "config": OmegaConf.to_container(config),
                    "result": shown,
                    "metrics": metrics,
                },
                indent=1,
            )
        )
        return
    columns = ["step", "seconds", "loss", "accuracy", "exact", "train_loss"]
    if form == "csv":
        print_table(metrics, columns, form)
        return
    print(f"{run.path}: {run.state}\n")
    print(OmegaConf.to_yaml(config, resolve=True))
    print_table(metrics, columns, form, title="Validation")
    if shown:
        print(json.dumps(shown, indent=1))
