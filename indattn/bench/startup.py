"""How long the command line takes to answer."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
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


def bench_startup(config: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """Median wall time of some short commands over rounds in which they take turns."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in tqdm(range(config.rounds), desc="startup", unit="round", disable=None):
        for name, arguments in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - began)
    empty = times["python -c pass"]
    return [
        {
            "command": name,
            "seconds": statistics.median(measured),
            "ratio": statistics.median(a / b for a, b in zip(measured, empty, strict=True)),
        }
        for name, measured in times.items()
    ]
