"""Figures of trained runs: what each layer's attention does along training and against noise."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from indattn.figures import LINES, STYLES, plain_log, reference_lines, save, shared_legend, style
from indattn.statistics import mean_interval

__all__ = ["all_figures", "save"]

#: Column, axis label, whether it is a ratio drawn on a logarithmic axis, and the line to compare with.
QUANTITIES = {
    "snr_forward": ("SNR against the aligned\nforward pass", True, 1.0),
    "snr_centred": ("the same about the mean\nof the aligned output", True, 1.0),
    "snr_values": ("SNR against aligned values\nunder q·k alone, without bias", True, 1.0),
    "right_weight": ("weight on the right value\n(mean of heads)", False, None),
    "sharpness": ("sharpness Σa²\n(mean of heads)", False, None),
}


def all_figures(layers: pd.DataFrame, task: str) -> dict[str, Figure]:
    """Figures by the end of their names: one a quantity along training, and all of them against noise.

    Args:
        layers: of :func:`indattn.theory.training.by_layer`, of one task.
        task: its name.
    """
    name = task.replace("_", " ")
    made = {
        f"-{quantity.replace('_', '-')}": along_training(layers, quantity, name)
        for quantity in QUANTITIES
        if np.isfinite(layers[quantity]).any()
    }
    if layers["noise"].nunique() > 1:
        made["-noise"] = against_noise(layers, name)
    return made


def _models(table: pd.DataFrame) -> list[str]:
    order = list(STYLES)
    return sorted(table["model"].unique(), key=lambda m: (order.index(m) if m in order else len(order), m))


def _curves(axes: Axes, table: pd.DataFrame, x: str, y: str, ratio: bool) -> None:
    """Mean over seeds and its 95% interval for each model; of a ratio, the geometric mean."""
    models = _models(table)
    for model in models:
        here = table[(table["model"] == model) & np.isfinite(table[y])]
        if here.empty:
            continue
        found = []
        for at, group in here.groupby(x):
            values = np.log(group[y]) if ratio else group[y]
            interval = mean_interval(values.tolist())
            ends = np.array([interval.mean, interval.low, interval.high])
            found.append((float(str(at)), *(np.exp(ends) if ratio else ends)))
        xs, mean, low, high = np.array(found).T
        colour, marker, line = style(model, models)
        axes.plot(
            xs, mean, color=colour, linestyle=line, marker=marker if len(xs) < 12 else None, markersize=5, label=model
        )
        axes.fill_between(xs, low, high, color=colour, alpha=0.18, linewidth=0)


def _scale(axes: Axes, values: pd.Series, ratio: bool) -> None:
    """Shares from 0 to 1; ratios on a logarithmic axis with plain numbers, and a word where all are infinite."""
    if not ratio:
        axes.set_ylim(0, 1.05)
        return
    axes.set_yscale("log")
    plain_log(axes.yaxis)
    if not np.isfinite(values).any():
        axes.annotate(
            "infinite: aligned already",
            (0.5, 0.5),
            xycoords="axes fraction",
            ha="center",
            va="center",
            fontsize=9,
            color="#444444",
        )


def _seeds(table: pd.DataFrame) -> str:
    counts = table.groupby(["model", "noise"])["seed"].nunique()
    if counts.max() == 1:
        return "one seed, no interval"
    number = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    return f"mean and 95% interval over {number} seeds"


def _finish(figure: Figure, title: str, axes: Axes) -> None:
    shared_legend(figure, [axes])
    figure.suptitle(title, fontsize=11)


def along_training(layers: pd.DataFrame, quantity: str, task: str) -> Figure:
    """A quantity of each layer, and above it the accuracy, against training steps; a column a noise level."""
    label, ratio, line = QUANTITIES[quantity]
    levels, numbers = sorted(layers["noise"].unique()), sorted(layers["layer"].unique())
    with plt.rc_context(LINES):
        figure, grid = plt.subplots(
            len(numbers) + 1,
            len(levels),
            figsize=(3.4 * len(levels) + 0.8, 1.85 * (len(numbers) + 1) + 1.0),
            sharex=True,
            sharey="row",
            squeeze=False,
            layout="constrained",
        )
        for column, noise in enumerate(levels):
            here = layers[layers["noise"] == noise]
            top = grid[0][column]
            _curves(top, here[here["layer"] == numbers[0]], "step", "accuracy", False)
            reference_lines(top, here["chance"].iloc[0], here["ceiling"].iloc[0])
            top.set_ylim(0, 1.05)
            top.set_title(f"noise {noise:g}")
            for row, layer in enumerate(numbers, 1):
                axes = grid[row][column]
                _curves(axes, here[here["layer"] == layer], "step", quantity, ratio)
                if line is not None:
                    axes.axhline(line, color="#666666", linewidth=1.1, linestyle=":")
                _scale(axes, here[here["layer"] == layer][quantity], ratio)
                if column == 0:
                    axes.set_ylabel(f"layer {layer}")
            grid[-1][column].set_xlabel("training step")
        grid[0][0].set_ylabel("accuracy")
        what = "SNR against the aligned forward pass, about its mean" if quantity == "snr_centred" else label
        what = what.replace("\n", " ")
        _finish(figure, f"{task}: {what}; {_seeds(layers)}", grid[0][-1])
    return figure


def against_noise(layers: pd.DataFrame, task: str) -> Figure:
    """Every quantity of each layer after the last step, against noise."""
    last = layers[layers["step"] == layers.groupby("hash")["step"].transform("max")]
    numbers, levels = sorted(last["layer"].unique()), sorted(last["noise"].unique())
    with plt.rc_context(LINES):
        figure, grid = plt.subplots(
            len(numbers),
            len(QUANTITIES),
            figsize=(3.1 * len(QUANTITIES) + 0.6, 2.1 * len(numbers) + 1.3),
            sharex=True,
            sharey="col",
            squeeze=False,
            layout="constrained",
        )
        for row, layer in enumerate(numbers):
            for column, (quantity, (label, ratio, line)) in enumerate(QUANTITIES.items()):
                axes = grid[row][column]
                _curves(axes, last[last["layer"] == layer], "noise", quantity, ratio)
                if line is not None:
                    axes.axhline(line, color="#666666", linewidth=1.1, linestyle=":")
                _scale(axes, last[last["layer"] == layer][quantity], ratio)
                if row == 0:
                    axes.set_title(label, fontsize=10)
                if column == 0:
                    axes.set_ylabel(f"layer {layer}")
                axes.set_xticks(levels, [f"{noise:g}" for noise in levels])
        for axes in grid[-1]:
            axes.set_xlabel("noise")
        _finish(figure, f"{task}, after training; {_seeds(last)}", grid[0][0])
    return figure
