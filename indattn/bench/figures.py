"""Figures of what attentions and models cost."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from indattn.figures import LINES, plain_log, save, shared_legend, style

__all__ = ["cost_curves", "model_costs", "save"]

#: Colour of a family of f, and line and marker of a backend.
FAMILY_COLOURS = {
    "none": "#000000",
    "mlp": "#D55E00",
    "gaussian": "#0072B2",
    "fourier": "#009E73",
    "t5": "#CC79A7",
    "alibi": "#E69F00",
}
BACKEND_STYLES: dict[str, tuple[Any, str]] = {
    "folded inside": ("-", "o"),
    "folded extra": ("--", "s"),
    "table": ("-", "D"),
    "blocked": ("-.", "^"),
    "sdpa": (":", "v"),
    "oracle": ((0, (5, 1, 1, 1)), "X"),
    "flex": ((0, (3, 1)), "P"),
}


def cost_curves(rows: pd.DataFrame) -> Figure:
    """Time and peak memory of each family and backend against length, as ratios to plain attention.

    Args:
        rows: of ``bench attention``: ``family, backend, columns, n, pass, time_ratio, memory_ratio``.
    """
    panels = [("forward", "time_ratio"), ("forward+backward", "time_ratio"), ("forward+backward", "memory_ratio")]
    panels = [(name, value) for name, value in panels if rows[value].notna().any()]
    lengths = sorted(rows["n"].unique())
    with plt.rc_context(LINES):
        figure, grid = plt.subplots(
            1, len(panels), figsize=(4.0 * len(panels), 5.2), squeeze=False, layout="constrained"
        )
        for axes, (name, value) in zip(grid[0], panels, strict=True):
            here = rows[(rows["pass"] == name) & rows[value].notna() & (rows["family"] != "none")]
            for (family, backend, columns), line in here.groupby(["family", "backend", "columns"], sort=False):
                label = f"{backend} {columns}" if columns != "none" else str(backend)
                style_, marker = BACKEND_STYLES[label]
                axes.plot(
                    line["n"],
                    line[value],
                    color=FAMILY_COLOURS[str(family)],
                    linestyle=style_,
                    marker=marker,
                    markersize=5,
                    label=f"{family}, {label}",
                )
            axes.axhline(1, color="#666666", linewidth=1.1, label="plain attention")
            axes.set_xscale("log", base=2)
            axes.set_yscale("log", base=2)
            axes.set_xticks(lengths, [str(n) for n in lengths])
            axes.yaxis.set_major_formatter(lambda x, _: f"{x:g}")
            what = "time" if value == "time_ratio" else "peak memory beyond inputs"
            axes.set(xlabel="length n (queries and values)", ylabel=f"{what}, times plain attention")
            axes.set_title(f"{what}, {name.replace('+', ' + ')}")
        shared_legend(figure, list(grid[0]))
    return figure


def model_costs(rows: pd.DataFrame) -> Figure:
    """Operations, time, ratio of times and peak memory of a training step of each model against the length.

    Args:
        rows: of ``bench models``; memory has no panel where it was not measured. The band of a ratio is from its lowest
            to its highest round.
    """
    models, lengths = list(dict.fromkeys(rows["model"])), sorted(rows["n"].unique())
    panels = {
        "step_gflops": ("operations of matrix products", "GFLOP a step"),
        "milliseconds": ("time", "milliseconds a step"),
        "ratio": ("ratio of times, lowest to highest round", f"times {models[0]}"),
        "memory_mb": ("peak memory beyond model and batch", "MB"),
    }
    with plt.rc_context(LINES):
        figure, grid = plt.subplots(2, 2, figsize=(8.6, 7.4), layout="constrained")
        for axes, (value, (title, label)) in zip(grid.flat, panels.items(), strict=True):
            axes.set_title(title)
            if rows[value].isna().all():
                axes.set_axis_off()
                continue
            for model in models:
                line = rows[rows["model"] == model].sort_values("n")
                colour, marker, dashes = style(model, models)
                axes.plot(line["n"], line[value], color=colour, linestyle=dashes, marker=marker, label=model)
                if value == "ratio":
                    axes.fill_between(
                        line["n"], line["ratio_low"], line["ratio_high"], color=colour, alpha=0.12, linewidth=0
                    )
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(lengths, [str(n) for n in lengths])
            plain_log(axes.yaxis)
            axes.set(xlabel="length n (symbols)", ylabel=label)
        shared_legend(figure, list(grid.flat))
        figure.suptitle("A training step as the sequences grow", fontsize=11)
    return figure
