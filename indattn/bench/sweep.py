"""What a sweep costs beside the sum of its runs: start-up, hand-over, records."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from indattn.environment import processors
from indattn.runs import find_runs

__all__ = ["bench_sweep"]

RUNS = 24
STEPS = 300
RUN = ("model=standard", "noise=0.5", f"training.steps={STEPS}")


def bench_sweep(config: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """A sweep of 24 equal runs on all processors, beside one such run alone, command to command.

    ``efficiency`` is the time that the runs would take with no cost but their own, on all processors at once, as a part
    of what the sweep took: 24 x (one run alone) / (processors x sweep). ``of training`` counts of the run alone the
    training only, without start and tests.
    """
    jobs = processors()
    rows = []
    for _ in range(min(config.rounds, 3)):
        with tempfile.TemporaryDirectory() as folder:
            alone, training = _command(folder, "train", "task=synthetic", *RUN, "seed=99", "threads=1", "figures=false")
        with tempfile.TemporaryDirectory() as folder:
            seeds = ",".join(map(str, range(RUNS)))
            sweep, _ = _command(folder, "reproduce", "noise_curve", *RUN, f"seed={seeds}", f"jobs={jobs}")
        rows.append((alone, training, sweep))
    alone, training, sweep = (statistics.median(column) for column in zip(*rows, strict=True))
    return [
        {
            "runs": RUNS,
            "processes": jobs,
            "one run alone, s": alone,
            "its training, s": training,
            "sweep, s": sweep,
            "efficiency": statistics.median(RUNS * a / (jobs * s) for a, _, s in rows),
            "of training": statistics.median(RUNS * t / (jobs * s) for _, t, s in rows),
        }
    ]


def _command(folder: str, *words: str) -> tuple[float, float]:
    """Seconds that a command takes as a process, and the median of what its runs took to train."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "indattn.cli", *words, f"results_dir={folder}"], check=True, stdout=subprocess.DEVNULL
    )
    seconds = time.perf_counter() - began
    return seconds, statistics.median(run.result()["seconds"] for run in find_runs(Path(folder), state="done"))
