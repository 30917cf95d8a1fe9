"""`indattn bench`: what things cost, as medians and ratios measured in one run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig, ListConfig

from indattn.bench.attention import bench_attention
from indattn.bench.models import bench_models
from indattn.bench.retrieval import bench_retrieval
from indattn.bench.startup import bench_startup
from indattn.bench.step import bench_profile, bench_step
from indattn.bench.sweep import bench_sweep
from indattn.environment import describe, pick_device, set_threads
from indattn.errors import UserError, nearest
from indattn.runs import atomic, write_json
from indattn.tables import check_format, print_table

__all__ = [
    "BENCHES",
    "bench_attention",
    "bench_models",
    "bench_retrieval",
    "bench_startup",
    "bench_step",
    "bench_sweep",
    "run",
]

#: Name, function from configuration and device to rows, and what the table says above it.
BENCHES: dict[str, tuple[Callable[[DictConfig, torch.device], list[dict[str, Any]]], str]] = {
    "attention": (bench_attention, "One attention; ratios to plain scaled_dot_product_attention in the same round"),
    "models": (bench_models, "Training step as the sequences grow; ratio to the first model, median (low, high)"),
    "step": (bench_step, "Training step; ratio to the first model, median of rounds (low, high)"),
    "profile": (bench_profile, "Training step by operator: those of at least 1% of its time, own time alone"),
    "retrieval": (bench_retrieval, "Cross-modal retrieval; seconds, median of rounds, and peak memory of the process"),
    "startup": (bench_startup, "Processes; ratios to an empty Python program and to one that imports torch, medians"),
    "sweep": (bench_sweep, "A sweep beside one of its runs alone, whole commands, median of up to 3 rounds"),
}


def _stem(name: str, config: DictConfig, device: torch.device) -> str:
    """Of a bench's files: with the kind of device, unless a CPU, and the precision of attentions, unless fp32."""
    parts = [f"bench_{name}", *([device.type] if device.type != "cpu" else [])]
    if name == "attention" and config.attention.precision != "fp32":
        parts.append(config.attention.precision)
    return "-".join(parts)


def run(config: DictConfig) -> None:
    """The verb ``bench``: measures, prints, and writes tables, hardware and some figures into the tree.

    Files of another device than a CPU carry its name, as ``bench_attention-cuda.csv``.
    """
    check_format(config.format)
    if not isinstance(config.bench, ListConfig):
        raise UserError(f"bench={config.bench}: must be a list, as bench=[step]")
    for name in config.bench:
        if name not in BENCHES:
            raise UserError(f"bench {name!r}: there is none of that name{nearest(name, BENCHES, all_if_few=6)}")
    for key in ("rounds", "steps"):
        if isinstance(config[key], bool) or not isinstance(config[key], int) or config[key] < 1:
            raise UserError(f"{key}={config[key]}: must be a whole number of at least 1")
    set_threads(config.threads)
    device = pick_device(config.device)
    for name in config.bench:
        bench, title = BENCHES[name]
        rows = bench(config, device)
        stem = Path(config.results_dir) / "tables" / _stem(name, config, device)
        with atomic(stem.with_suffix(".csv"), "w") as file:
            pd.DataFrame(rows).to_csv(file, index=False)
        write_json(stem.with_suffix(".json"), describe(device))
        print_table(rows, list(rows[0]), config.format, title=title)
        written = [stem.with_suffix(".csv")]
        if name in ("attention", "models"):
            from indattn.bench.figures import cost_curves, model_costs, save

            drawn = {"attention": cost_curves, "models": model_costs}[name](pd.DataFrame(rows))
            written += save(drawn, Path(config.results_dir) / "figures" / stem.name)
        if config.format == "table":
            for path in written:
                print(path)
