"""`indattn theory figure1`: the paper's figure, measured and read in every way (:mod:`indattn.theory.readings`)."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig
from tqdm import tqdm

from indattn.runs import atomic
from indattn.theory import figures, readings
from indattn.theory.options import Options

__all__ = ["figure1"]


def figure1(config: DictConfig, device: torch.device) -> list[Path]:
    """``indattn theory figure1``: measures, judges, draws; the paths written."""
    options = Options.of(config, device)
    root = Path(config.results_dir)
    table = readings.measure(options, options.progress)
    judged = readings.verdicts(table, options)
    sharpness = readings.sharpness_table(options, options.progress)
    paths = []
    for name, rows in (("figure1", table), ("figure1-readings", judged), ("figure1-sharpness", sharpness)):
        path = root / "tables" / f"{name}.csv"
        with atomic(path) as file:
            rows.to_csv(file, index=False, float_format="%.6g")
        paths.append(path)
    save = figures.save
    paths += save(figures.summary(judged, readings.READINGS, readings.SENTENCES), root / "figures" / "figure1-summary")
    paths += save(figures.sharpness(sharpness), root / "figures" / "figure1-sharpness")
    for reading in tqdm(readings.READINGS, desc="figures", unit="figure", disable=not options.progress):
        drawn = figures.reading(readings.panels(table, reading, options), reading, judged)
        paths += save(drawn, root / "figures" / "figure1" / reading.name, ("png",))
    return paths
