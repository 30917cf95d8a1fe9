"""`indattn bench`: what things cost, as medians and ratios measured in one run."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from tqdm import tqdm

from indattn.build import build_misalignment, build_model, build_task
from indattn.config import TrainingConfig, load_option, section
from indattn.environment import describe, pick_device, set_threads
from indattn.errors import UserError, nearest
from indattn.evaluation import to_device
from indattn.models.matching import count_parameters
from indattn.runs import write_json
from indattn.tables import print_table

__all__ = ["bench_step", "run"]


class TrainingStep:
    """One model with its optimiser, ready to take training steps on one batch."""

    def __init__(self, config: DictConfig, device: torch.device) -> None:
        settings = section(TrainingConfig, config.training, "training")
        self.task = build_task(config)
        self.batch = to_device(
            self.task.draw(
                settings.batch_size, torch.Generator().manual_seed(0), build_misalignment(config, self.task)
            ),
            device,
        )
        torch.manual_seed(0)
        self.model = build_model(config, self.task).to(device)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=settings.lr, fused=True)
        self.device = device

    def seconds(self, steps: int) -> float:
        """Mean wall time of a step over some in a row."""
        began = time.perf_counter()
        for _ in range(steps):
            logits, _ = self.model(self.batch)
            self.optimiser.zero_grad(set_to_none=True)
            self.task.loss(logits, self.batch).backward()
            self.optimiser.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return (time.perf_counter() - began) / steps


def with_model(config: DictConfig, name: str, self_attention: bool) -> DictConfig:
    """The configuration with another file of the group ``model``, sizes kept."""
    changed = config.copy()
    OmegaConf.set_struct(changed, False)
    # The group's base has no bias; a model's own file says what is different.
    chosen = {"self_attention": self_attention, "bias": "none"} | dict(load_option("model", name))
    chosen.pop("defaults")
    changed.model.update(chosen)
    return changed


def bench_step(config: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """Median time of a training step of each model, and the median over rounds of its ratio to the first model.

    Within a round the models take turns, so a machine that slows down slows all of them.
    """
    rows = []
    for self_attention in config.self_attention:
        steps = {name: TrainingStep(with_model(config, name, self_attention), device) for name in config.models}
        for step in steps.values():
            step.seconds(2)  # warm up
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in tqdm(range(config.rounds), desc=f"self-attention {self_attention}", unit="round", disable=None):
            for name, step in steps.items():
                times[name].append(step.seconds(config.steps))
        first = times[config.models[0]]
        for name, measured in times.items():
            ratios = [a / b for a, b in zip(measured, first, strict=True)]
            rows.append(
                {
                    "task": config.task.name,
                    "self_attention": self_attention,
                    "model": name,
                    "parameters": count_parameters(steps[name].model),
                    "milliseconds": 1000 * statistics.median(measured),
                    "ratio": statistics.median(ratios),
                    "ratio_low": min(ratios),
                    "ratio_high": max(ratios),
                }
            )
    return rows


def run(config: DictConfig) -> None:
    """The verb ``bench``."""
    for name in config.bench:
        if name != "step":
            raise UserError(f"bench {name!r}: there is none of that name{nearest(name, ['step'])}")
    if not all(isinstance(config[key], ListConfig) and config[key] for key in ("models", "self_attention")):
        raise UserError("models and self_attention: must be lists, as models=[standard,indirect]")
    if config.rounds < 1 or config.steps < 1:
        raise UserError(f"rounds={config.rounds}, steps={config.steps}: must be at least 1")
    set_threads(config.threads)
    device = pick_device(config.device)
    rows = bench_step(config, device)
    columns = list(rows[0])
    print_table(
        rows, columns, config.format, title="Training step; ratio to the first model, median of rounds (low, high)"
    )
    path = Path(config.results_dir) / "tables" / "bench_step.json"
    write_json(path, {"rows": rows, **describe(device)})
    if config.format == "table":
        print(path)
