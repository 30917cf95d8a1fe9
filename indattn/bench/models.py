"""What a training step of each model costs as the sequences grow: operations, time, peak memory."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf
from scipy.stats import median_abs_deviation
from tqdm import tqdm

from indattn.bench.memory import in_own_process, is_measured
from indattn.bench.step import TrainingStep, named_models, with_model
from indattn.errors import UserError
from indattn.models.matching import count_parameters

__all__ = ["bench_models"]

MODELS = ("standard", "indirect", "indirect_gaussian", "indirect_expected", "cross", "double_cross", "fusion")


def bench_models(config: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """A row a model and length n, built as training builds them.

    Of ``task=synthetic`` the context has n + 1 tokens and the content 2 n + 1; ``cross`` has a query a token of the
    context, all others a query a token of the content. Parameters are matched by the width of the feed-forward block,
    unless ``model.match_parameters=false`` leaves it the same for all.

    - ``step_gflops``: :meth:`~indattn.bench.step.TrainingStep.flops` of the whole batch, in 10^9. Products are affine
      in the batch: they are counted on one example and on two, for the literal path would not fit for more;
    - ``milliseconds``: of a step, median of rounds (``milliseconds_error``: its standard error, of a normal
      distribution with the rounds' median absolute deviation);
    - ``ratio`` (``ratio_low``, ``ratio_high``): the median, lowest and highest over rounds of its ratio to the first
      model in the same round;
    - ``memory_mb``: peak of a step beyond model, optimiser and batch, in 10^6 bytes; ``None`` where it is not measured.

    Raises:
        UserError: if a model is unknown, a length not positive, or the task has no length ``n``.
    """
    config = _with_task(config)
    names, lengths = named_models(config, MODELS), _lengths(config)
    rows: list[dict[str, Any]] = []
    for n in lengths:
        rows += _at_length(_configs(config, names, n), n, max(1, config.steps * lengths[0] // n), config.rounds, device)
    if config.growth.memory and is_measured(device):
        _add_memory(rows, config, names, lengths, device)
    return rows


def _with_task(config: DictConfig) -> DictConfig:
    """The configuration with the synthetic task, unless the command line names a task.

    Raises:
        UserError: if the task has no length.
    """
    if HydraConfig.initialized():
        said = list(HydraConfig.get().overrides.task)
        if not any(override.startswith(("task=", "experiment=")) for override in said):
            config = compose("bench", overrides=["task=synthetic", *said])
    if "n" not in config.task:
        raise UserError(f"task={config.task.name}: bench models needs a task of a length n, as task=synthetic is")
    return config


def _lengths(config: DictConfig) -> list[int]:
    lengths = config.growth.lengths
    if not (isinstance(lengths, ListConfig) and lengths):
        raise UserError(f"growth.lengths={lengths}: must be a list, as growth.lengths=[16,64]")
    for n in lengths:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise UserError(f"growth.lengths={lengths}: must be whole numbers of at least 1")
    return sorted(set(lengths))


def _configs(config: DictConfig, names: list[str], n: int) -> dict[str, DictConfig]:
    made = {name: with_model(config, name, config.model.self_attention) for name in names}
    for one in made.values():
        one.task.n = n
    return made


def _at_length(
    configs: Mapping[str, DictConfig], n: int, steps: int, rounds: int, device: torch.device
) -> list[dict[str, Any]]:
    gflops = {name: _gflops(config, device) for name, config in configs.items()}
    made = {name: TrainingStep(config, device) for name, config in configs.items()}
    for step in made.values():
        step.seconds(2)  # warm up
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in tqdm(range(rounds), desc=f"n = {n}", unit="round", disable=None):
        for name, step in made.items():
            times[name].append(step.seconds(steps))
    first = next(iter(times.values()))
    rows = []
    for name, measured in times.items():
        ratios = [a / b for a, b in zip(measured, first, strict=True)]
        rows.append(
            {
                "model": name,
                "n": n,
                "parameters": count_parameters(made[name].model),
                "step_gflops": gflops[name],
                "milliseconds": 1000 * statistics.median(measured),
                "milliseconds_error": 1000 * _error_of_median(measured),
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "memory_mb": None,
            }
        )
    return rows


def _error_of_median(measured: Sequence[float]) -> float:
    deviation = float(median_abs_deviation(measured, scale="normal"))
    return math.sqrt(math.pi / 2 / len(measured)) * deviation


def _gflops(config: DictConfig, device: torch.device) -> float:
    small = config.copy()
    counted = []
    for examples in (1, 2):
        small.training.batch_size = examples
        counted.append(TrainingStep(small, device).flops())
    one, two = counted
    return (one + (config.training.batch_size - 1) * (two - one)) / 1e9


def _add_memory(
    rows: list[dict[str, Any]], config: DictConfig, names: list[str], lengths: list[int], device: torch.device
) -> None:
    peaks: dict[tuple[str, int], int] = {}
    for name in tqdm(names, desc="peak memory", unit="model", disable=None):
        configs = [_configs(config, [name], n)[name] for n in lengths]
        if device.type == "cuda":
            measured = [_peak(one, device) for one in configs]
        else:
            request = [OmegaConf.to_container(one, resolve=True) for one in configs]
            measured = in_own_process("indattn.bench.models:answer_peaks", request)
        if measured is None:
            return
        peaks.update(zip([(name, n) for n in lengths], measured, strict=True))
    for row in rows:
        row["memory_mb"] = peaks[row["model"], row["n"]] / 1e6


def answer_peaks(configs: list[dict[str, Any]]) -> list[int]:
    """Peak memory in bytes of a step of each of these, asked for in a process of their own."""
    return [_peak(OmegaConf.create(config), torch.device("cpu")) for config in configs]


def _peak(config: DictConfig, device: torch.device) -> int:
    step = TrainingStep(config, device)
    step.seconds(2)  # the optimiser's state, and what libraries keep
    return step.peak_bytes()
