"""`indattn theory setting`: one setting of the theory, measured beside its closed forms."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from indattn.config import section
from indattn.errors import UserError
from indattn.tables import print_table
from indattn.theory.monte_carlo import ENERGIES, Setting, SettingNumbers, estimate, exact, orthogonal

__all__ = ["single"]

MATRICES = ("projection", "covariance", "noise_covariance")


def single(config: DictConfig, device: torch.device) -> list[Path]:
    """Print every expectation: measured, standard error, exact, and their distance in standard errors.

    Raises:
        UserError: for a setting that cannot be, or a matrix that cannot be read.
    """
    samples = config.samples
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 2:
        raise UserError(f"samples={samples}: must be a whole number of at least 2")
    if not isinstance(config.setting, DictConfig):
        raise UserError(f"setting={config.setting}: must be a section with keys of its own, as setting.KEY=VALUE")
    numbers: Any = OmegaConf.to_container(config.setting, resolve=True)
    matrices = {key: numbers.pop(key, None) for key in MATRICES}
    made = section(SettingNumbers, OmegaConf.create(numbers), "setting")
    generator = torch.Generator().manual_seed(config.random_seed)
    try:
        made.check()
        covariance = _covariance(matrices["covariance"], made.width, "setting.covariance")
        setting = Setting(
            **vars(made),
            projection=_projection(matrices["projection"], made.width, generator),
            covariance=covariance,
            other_covariance=covariance,
            noise_covariance=_covariance(matrices["noise_covariance"], made.width, "setting.noise_covariance"),
            query=torch.randn(made.heads, made.width, generator=generator) / math.sqrt(made.heads),
        )
        expected = exact(setting)
    except ValueError as error:
        raise UserError(f"setting.{error}") from error
    # Another stream than the one W and the query came from, which are one of its draws otherwise.
    measured = estimate(setting, samples, config.random_seed * 100_003 + 90_000, device)
    unsettled = setting.degrees is not None and setting.degrees <= 4  # the mean of such an energy has no error
    rows: list[dict[str, Any]] = []
    for name in ENERGIES:
        found, form = measured[name], expected.get(name)
        known = form is not None and math.isfinite(form) and found.error > 0 and not (unsettled and name == "noise")
        far = (found.value - form) / found.error if known and form is not None else None
        rows.append({"what": name, "measured": found.value, "error": found.error, "exact": form, "distance": far})
    for name, below in (("SNR", "noise"), ("SNR under misalignment", "misalignment")):
        if expected[below]:
            ratio, form = measured.ratio("signal", below), expected["signal"] / expected[below]
            far = (ratio.value - form) / ratio.error if ratio.error and not (unsettled and below == "noise") else None
            rows.append({"what": name, "measured": ratio.value, "error": ratio.error, "exact": form, "distance": far})
    print_table(rows, list(rows[0]), config.format, title="Measured and exact; the distance is in standard errors")
    return []


def _matrix(path: str, width: int, key: str) -> Tensor:
    try:
        numbers = np.load(path, allow_pickle=False) if path.endswith(".npy") else np.loadtxt(path, delimiter=",")
        made = torch.as_tensor(np.asarray(numbers, dtype=np.float32))
    except (OSError, ValueError) as error:
        raise UserError(f"{key}={path}: cannot be read ({str(error).splitlines()[0]})") from error
    if made.shape != (width, width):
        raise UserError(f"{key}={path} is {tuple(made.shape)}: must be ({width}, {width})")
    return made


def _projection(value: Any, width: int, generator: torch.Generator) -> Tensor:
    if value == "orthogonal":
        return orthogonal(width, generator)
    if value == "gaussian":
        return torch.randn(width, width, generator=generator) / math.sqrt(width)
    return _matrix(str(value), width, "setting.projection")


def _covariance(value: Any, width: int, key: str) -> Tensor | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (1 - value) * torch.eye(width) + value * torch.ones(width, width)
    return _matrix(str(value), width, key)
