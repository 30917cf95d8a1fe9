"""The two lemmas of section 3.1, draw by draw and in expectation."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from omegaconf import DictConfig
from tqdm import tqdm

from indattn.runs import atomic
from indattn.theory.monte_carlo import ENERGIES, WEIGHTS, Setting, estimate, exact, orthogonal
from indattn.theory.options import Options

__all__ = ["lemmas", "measure"]

HEADS = (1, 4)


def measure(options: Options, samples: int, progress: bool = False) -> pd.DataFrame:
    """How near errors come to the bound of lemma 1, and the energy of lemma 2, with a random orthogonal W_v.

    Args:
        options: widths, positions, device; sigma is 1, for both sides of both lemmas go with it alike.
        samples: independent draws a setting.
        progress: whether to show a bar.

    Returns:
        one row a kind of weights, width and number of heads: ``most_of_bound``, the largest error of a single output
        as a part of its bound; the noise's energy with its standard error and exact value, and the exact sharpness.
    """
    widths = [width for width in options.widths if width <= 256]  # products with W_v take minutes beyond
    settings = [(weights, width, heads) for weights in WEIGHTS for width in widths for heads in HEADS]
    rows = []
    for number, (weights, width, heads) in enumerate(tqdm(settings, desc="lemmas", disable=not progress)):
        projection = orthogonal(width, torch.Generator().manual_seed(options.seed + number))
        setting = Setting(width, options.n, heads, weights=weights, projection=projection)
        found = estimate(setting, samples, options.seed * 100_003 + 200_000 + number, options.device)
        # Of several heads, a norm of the whole error against the sum of their bounds.
        error, bound = (found.samples[:, ENERGIES.index(name)] for name in ("noise", "bound"))
        expected = exact(setting)
        rows.append(
            {
                "weights": weights,
                "width": width,
                "heads": heads,
                "most_of_bound": (error.sqrt() / bound).max().item(),
                "noise": found["noise"].value,
                "noise_error": found["noise"].error,
                "noise_exact": expected["noise"],
                "sharpness_exact": expected["sharpness"],
            }
        )
    return pd.DataFrame(rows)


def lemmas(config: DictConfig, device: torch.device) -> list[Path]:
    """Write ``tables/lemmas.csv``.

    Raises:
        UserError: for a number out of range.
    """
    options = Options.of(config, device)
    table = measure(options, samples=4096, progress=options.progress)
    path = Path(config.results_dir) / "tables" / "lemmas.csv"
    with atomic(path) as file:
        table.to_csv(file, index=False, float_format="%.6g", lineterminator="\n")
    return [path]
