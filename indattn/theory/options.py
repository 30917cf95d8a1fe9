"""The numbers of ``configs/theory.yaml``, checked."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig

from indattn.errors import UserError

__all__ = ["Options", "show_progress"]

#: Unscaled scores of wider values are so spread out that their moments take minutes to compute.
WIDEST = 3600


def show_progress(config: DictConfig) -> bool:
    """Whether to show a bar."""
    return sys.stderr.isatty() if config.progress == "auto" else bool(config.progress)


@dataclass(frozen=True)
class Options:
    """Sizes of ``figure1`` and ``threshold``.

    Attributes:
        widths: d, rising.
        n: positions.
        sigmas: of the noise, positive.
        shifts: between means, not negative, rising.
        seed: of the draws.
        progress: whether to show a bar.
        device: where to compute.
    """

    widths: list[int]
    n: int
    sigmas: list[float]
    shifts: list[float]
    seed: int
    progress: bool
    device: torch.device

    @classmethod
    def of(cls, config: DictConfig, device: torch.device) -> Options:
        """From the configuration.

        Raises:
            UserError: for a number out of range, saying which.
        """
        widths = _numbers(config, "widths", 2)
        if max(widths) > WIDEST:
            raise UserError(f"widths={widths}: at most {WIDEST}")
        n = _whole(config.n, "n", 2)
        return cls(
            widths=[_whole(d, "widths", 2) for d in sorted(set(widths))],
            n=n,
            sigmas=[float(s) for s in _numbers(config, "sigmas", 1e-6)],
            shifts=[float(s) for s in sorted(set(_numbers(config, "shifts", 0.0)))],
            seed=config.random_seed,
            progress=show_progress(config),
            device=device,
        )


def _whole(value: Any, key: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{key}={value}: must be a whole number of at least {least}")
    return value


def _numbers(config: DictConfig, key: str, least: float) -> list[Any]:
    values = config[key]
    if isinstance(values, ListConfig) and not values:
        raise UserError(f"{key}=[]: must not be empty")
    if not isinstance(values, ListConfig):
        raise UserError(f"{key}={values}: must be a list, as {key}=[1,2]")
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < least:
            what = "not be negative" if least == 0 else "be positive" if least < 1 else f"be at least {least}"
            raise UserError(f"{key}={list(values)}: {value} must {what}")
    return list(values)
