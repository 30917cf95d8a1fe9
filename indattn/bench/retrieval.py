"""What cross-modal retrieval costs: a run's command up to its first step, a full matrix of scores, memory."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch
from hydra import compose
from omegaconf import DictConfig
from tqdm import tqdm

from indattn.bench.step import named_models, with_model
from indattn.build import build_model, build_task
from indattn.tasks.cross_modal_retrieval import CrossModalRetrieval, score_matrix

__all__ = ["bench_retrieval"]

MODELS = ("dual", "standard", "indirect", "cross", "fusion", "uniform")


def bench_retrieval(config: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """Each cost in seconds, median of rounds, and the most memory a process of it has held, in megabytes.

    - ``command of one step``: a whole process of ``indattn train`` with ``training.steps=1``, features cached: start,
      corpus, model, validation before and after, tests. What comes before the first step is part of it;
    - ``score matrix``: all texts of the test by all its pictures, encoded and scored by each model, untrained.

    Rounds take turns.
    """
    import resource  # not on Windows: better now than when all is measured

    config = _with_task(config)
    task = build_task(config)
    assert isinstance(task, CrossModalRetrieval)
    images, texts = task.rows(task.pairs.items("test"))
    models = {
        name: build_model(with_model(config, name, False), task).to(device) for name in named_models(config, MODELS)
    }
    times: dict[tuple[str, str], list[float]] = {}
    for number in tqdm(range(config.rounds), desc="retrieval", unit="round", disable=None):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            command = ["train", f"task={task.name}", "training.steps=1", f"results_dir={folder}", "figures=false"]
            options = [f"threads={config.threads}", f"seed={number}", f"task.encoder={task.encoder}"]
            subprocess.run(
                [sys.executable, "-m", "indattn.cli", *command, *options], check=True, stdout=subprocess.DEVNULL
            )
            times.setdefault(("command of one step", "indirect"), []).append(time.perf_counter() - began)
        for name, model in models.items():
            began = time.perf_counter()
            score_matrix(model, task, texts, images, device)
            times.setdefault((f"score matrix {len(texts)} x {len(images)}", name), []).append(
                time.perf_counter() - began
            )
    unit = 1024 if sys.platform == "linux" else 1024**2
    children, own = (
        round(resource.getrusage(who).ru_maxrss / unit) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)
    )
    return [
        {
            "what": what,
            "model": name,
            "seconds": statistics.median(measured),
            "longest": max(measured),
            "megabytes": children if what.startswith("command") else own,
        }
        for (what, name), measured in times.items()
    ]


def _with_task(config: DictConfig) -> DictConfig:
    """The configuration of a bench, with the retrieval task in place of another."""
    if config.task.name == CrossModalRetrieval.name:
        return config
    made = compose("bench", overrides=[f"task={CrossModalRetrieval.name}"])
    for key in ("models", "rounds", "threads", "device", "seed"):
        made[key] = config[key]
    return made
