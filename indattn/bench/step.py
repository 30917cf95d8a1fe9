"""What a training step of each model costs, and how much of the machine's matrix product rate it reaches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any, cast

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from indattn.bench.memory import peak_bytes
from indattn.build import build_misalignment, build_model, build_task
from indattn.config import TrainingConfig, load_option, section
from indattn.errors import UserError
from indattn.models.matching import count_parameters
from indattn.tasks.base import to_device

__all__ = ["TrainingStep", "bench_profile", "bench_step", "named_models", "with_model"]

MODELS = ("standard", "indirect", "indirect_expected", "cross", "double_cross", "fusion")


class TrainingStep:
    """One model with its optimiser, ready to take training steps on one batch."""

    def __init__(self, config: DictConfig, device: torch.device) -> None:
        settings = section(TrainingConfig, config.training, "training")
        self.task = build_task(config)
        self.batch = to_device(
            self.task.training_data(build_misalignment(config, self.task), settings.batch_size, seed=0).batch(0),
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

    def flops(self) -> int:
        """Floating-point operations of the matrix products of one step, forward and backward, as defined.

        Counted by :class:`torch.utils.flop_counter.FlopCounterMode`, which knows products and convolutions alone: not
        softmax, norms, gathers or the optimiser, and of f only layers where they are applied (a table is looked up, a
        Gaussian is squared). It sees neither into torch's fused attention on a CPU nor into the operators of the
        backends ``table``, ``blocked`` and ``flex``, and would count the zeros with which ``folded`` widens heads. So
        that all models are counted alike, the literal path is taken (``record=True``), which stores all scores, and
        torch's attention is split into its products. What a backend computes twice to save memory counts once.
        """
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            logits, _ = self.model(self.batch, record=True)
            self.task.loss(logits, self.batch).backward()
        self.optimiser.zero_grad(set_to_none=True)
        return counter.get_total_flops()

    def peak_bytes(self) -> int:
        """Peak memory of a step beyond model, optimiser and batch, gradients included; after a step at least."""
        self.optimiser.zero_grad(set_to_none=True)
        return peak_bytes(lambda: self.seconds(1), self.device)

    def profile(self, steps: int = 3) -> list[tuple[str, float, float]]:
        """Operator, calls a step and milliseconds a step of its own, most expensive first, by torch's profiler."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            self.seconds(steps)
        events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
        return [(e.key, e.count / steps, e.self_cpu_time_total / 1000 / steps) for e in events]


def matmul_rate(device: torch.device, size: int = 1024) -> float:
    """Floating-point operations a second of one large matrix product: the rate nothing here can exceed."""
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    began = time.perf_counter()
    for _ in range(4):
        a @ b
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 4 * 2 * size**3 / (time.perf_counter() - began)


def with_model(config: DictConfig, name: str, self_attention: bool) -> DictConfig:
    """The configuration with another file of the group ``model``, sizes kept."""
    changed = config.copy()
    OmegaConf.set_struct(changed, False)
    # The group's base has no bias; a model's own file says what is different.
    changed.model.update({"self_attention": self_attention, "bias": "none"} | _own_keys(name))
    return changed


def _own_keys(name: str) -> dict[str, Any]:
    """What a model's file says beyond the group's base, with the models that it starts from."""
    # Not resolved: it asks for the task's family.
    file = cast(dict, OmegaConf.to_container(load_option("model", name), resolve=False))
    above = [one for one in file.pop("defaults", []) if isinstance(one, str) and one not in ("_base", "_self_")]
    return {key: value for one in above for key, value in _own_keys(one).items()} | file


def bench_step(config: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """Median time of a training step of each model, and the median over rounds of its ratio to the first model.

    Within a round the models and a large matrix product take turns, so a machine that slows down slows all of them.

    Raises:
        UserError: if ``models`` or ``self_attention`` is no list.
    """
    models = named_models(config, MODELS)
    _check_self_attention(config)
    rows = []
    for self_attention in config.self_attention:
        steps = {name: TrainingStep(with_model(config, name, self_attention), device) for name in models}
        for step in steps.values():
            step.seconds(2)  # warm up
        times: dict[str, list[float]] = {name: [] for name in steps}
        rates = []
        for _ in tqdm(range(config.rounds), desc=f"self-attention {self_attention}", unit="round", disable=None):
            rates.append(matmul_rate(device))
            for name, step in steps.items():
                times[name].append(step.seconds(config.steps))
        first = times[models[0]]
        for name, measured in times.items():
            ratios = [a / b for a, b in zip(measured, first, strict=True)]
            flops = steps[name].flops()
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
                    "gflops": flops / statistics.median(measured) / 1e9,
                    "of_matmul_rate": statistics.median(flops / t / r for t, r in zip(measured, rates, strict=True)),
                }
            )
    return rows


def bench_profile(config: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """Where the time of a training step goes: the operators of each model that take at least 1% of it."""
    models = named_models(config, MODELS)
    _check_self_attention(config)
    rows = []
    for self_attention in config.self_attention:
        for name in models:
            step = TrainingStep(with_model(config, name, self_attention), device)
            step.seconds(2)  # warm up
            events = step.profile()
            total = sum(milliseconds for *_, milliseconds in events)
            rows += [
                {
                    "self_attention": self_attention,
                    "model": name,
                    "operator": operator[:60],
                    "calls": calls,
                    "milliseconds": milliseconds,
                    "share": milliseconds / total,
                }
                for operator, calls, milliseconds in events
                if milliseconds >= 0.01 * total
            ]
    return rows


def named_models(config: DictConfig, otherwise: Sequence[str]) -> list[str]:
    """The models that are asked for, or others if none are.

    Raises:
        UserError: if ``models`` is no list of names.
    """
    if config.models is None:
        return list(otherwise)
    if not (isinstance(config.models, ListConfig) and config.models):
        raise UserError(f"models={config.models}: must be a list, as models=[standard,indirect]")
    return [str(name) for name in config.models]


def _check_self_attention(config: DictConfig) -> None:
    if not (isinstance(config.self_attention, ListConfig) and config.self_attention):
        raise UserError(f"self_attention={config.self_attention}: must be a list, as self_attention=[true,false]")
