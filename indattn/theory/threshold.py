"""Where the critical noise ``sigma* = 1`` (section 3.1) moves to: shared noise or values, means, heavy tails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig
from tqdm import tqdm

from indattn.runs import atomic
from indattn.theory.closed_forms import critical_noise, student_t_critical_noise
from indattn.theory.monte_carlo import ENERGIES, Estimate, Measurement, Setting, estimate, head_moments
from indattn.theory.options import Options

__all__ = ["measure", "threshold"]

#: Weights that do not depend on the values, from even to one-hot.
CURVES: dict[str, dict[str, Any]] = {
    "uniform": {"weights": "uniform"},
    "softmax": {"weights": "independent"},
    "sharp softmax": {"weights": "independent", "sharpening": 3.0},
    "one-hot": {"weights": "one_hot"},
}
WIDTH, SAMPLES = 64, 4096
CORRELATIONS = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
MEANS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
DEGREES = (1.0, 2.0, 2.5, 3.0, 4.0, 5.0, 8.0, 16.0, 32.0)


def measure(options: Options, progress: bool = False) -> pd.DataFrame:
    """Critical noise, measured and exact.

    The noise's energy goes with sigma squared, so the root of the ratio at sigma 1 is the sigma at which the ratio is
    1. For heavy tails also the typical threshold: the sigma at which half of the outputs have more noise than signal.
    It exists for every tail, and has no closed form.

    Returns:
        ``varied, value_of, curve, value, error, exact``; ``exact`` is NaN where there is no formula.
    """
    cases: list[tuple[str, float, str, Setting]] = []
    for curve, choice in CURVES.items():
        made = {"n": options.n, "queries": 4, **choice}
        for r in CORRELATIONS:
            cases.append(("noise_correlation", r, curve, Setting(WIDTH, noise_correlation=r, **made)))
            cases.append(("value_correlation", r, curve, Setting(WIDTH, value_correlation=r, **made)))
        cases += [("mean", mean, curve, Setting(WIDTH, mean=mean, **made)) for mean in MEANS]
    cases += [("degrees", nu, "energy", Setting(WIDTH, options.n, weights="independent", degrees=nu)) for nu in DEGREES]
    rows = []
    for number, (varied, at, curve, setting) in enumerate(
        tqdm(cases, desc="threshold", unit="setting", disable=not progress)
    ):
        measured = estimate(setting, SAMPLES, options.seed * 100_003 + 80_000 + number, options.device)
        row = {"varied": varied, "value_of": at}
        if varied == "degrees":
            rows.append(row | {"curve": "half of the outputs"} | _typical(measured) | {"exact": float("nan")})
            if at > 4:  # below, the energy of the noise has no variance and its mean does not settle
                found = _root(measured.ratio("signal", "noise"))
                rows.append(row | {"curve": curve} | found | {"exact": student_t_critical_noise(at)})
            else:
                nothing = {"value": float("nan"), "error": float("nan")}
                rows.append(row | {"curve": curve} | nothing | {"exact": student_t_critical_noise(at)})
            continue
        expected = critical_noise(
            head_moments(setting).sharpness, setting.mean**2, setting.value_correlation, setting.noise_correlation
        )
        rows.append(row | {"curve": curve} | _root(measured.ratio("signal", "noise")) | {"exact": expected})
    return pd.DataFrame(rows).sort_values(["varied", "curve"], kind="stable", ignore_index=True)


def _root(squared: Estimate) -> dict[str, float]:
    value = squared.value**0.5
    return {"value": value, "error": squared.error / (2 * value)}


def _typical(measured: Measurement) -> dict[str, float]:
    """Median over outputs of the sigma at which noise and signal are equal; its error by order statistics."""
    signal, noise = (measured.samples[:, ENERGIES.index(name)] for name in ("signal", "noise"))
    sigmas = (signal / noise).sqrt().sort()[0]
    half = len(sigmas) // 2
    spread = max(1, round(len(sigmas) ** 0.5 / 2))  # one standard error of the rank of the median
    return {
        "value": sigmas[half].item(),
        "error": ((sigmas[half + spread] - sigmas[half - spread]) / 2).item(),
    }


def threshold(config: DictConfig, device: torch.device) -> list[Path]:
    """``indattn theory threshold``: measures, draws; the paths written."""
    from indattn.theory import figures

    options = Options.of(config, device)
    rows = measure(options, options.progress)
    root = Path(config.results_dir)
    path = root / "tables" / "threshold.csv"
    with atomic(path) as file:
        rows.to_csv(file, index=False, float_format="%.6g")
    return [path, *figures.save(figures.threshold(rows), root / "figures" / "threshold")]
