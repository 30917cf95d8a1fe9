"""How long the command line takes to answer, and a run to begin."""

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
from tqdm import tqdm

__all__ = ["bench_startup"]

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "indattn --help": ["-m", "indattn.cli", "--help"],
    "indattn train --help": ["-m", "indattn.cli", "train", "--help"],
    "indattn show": ["-m", "indattn.cli", "show", "format=csv"],
    "python -c 'import torch'": ["-c", "import torch"],
}


TRAIN = "indattn train, to its first step"


def bench_startup(config: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """Median wall time of some short commands, and of `indattn train` up to its first step, over rounds in turn.

    Before the first step is the score of the untrained model on the validation split; its line in the curve is taken
    for the beginning of the first step.
    """
    times: dict[str, list[float]] = {name: [] for name in [*COMMANDS, TRAIN]}
    for _ in tqdm(range(config.rounds), desc="startup", unit="round", disable=None):
        for name, arguments in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - began)
        times[TRAIN].append(_to_first_step())
    empty, torch_alone = times["python -c pass"], times["python -c 'import torch'"]
    return [
        {
            "command": name,
            "seconds": statistics.median(measured),
            "ratio": statistics.median(a / b for a, b in zip(measured, empty, strict=True)),
            "to torch": statistics.median(a / b for a, b in zip(measured, torch_alone, strict=True)),
        }
        for name, measured in times.items()
    ]


def _to_first_step() -> float:
    """Seconds from the command until a run has written the first line of its curve."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", "task=synthetic", "noise=0.5", "threads=1", f"results_dir={folder}", "progress=false"]
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "indattn.cli", *words], stdout=subprocess.DEVNULL)
        while process.poll() is None and not any(file.stat().st_size for file in Path(folder).rglob("metrics.jsonl")):
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        process.kill()
        process.wait()
    return seconds
