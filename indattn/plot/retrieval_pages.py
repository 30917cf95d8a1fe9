"""`indattn plot retrieved centres`: retrieved pictures, and where attention and centres go, beside the pictures.

The pictures come from the corpus, the rest from results and recordings. No torch, no weights.
"""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from indattn.data.pairs import Pairs
from indattn.figures import LINES
from indattn.plot.plotter import Plotter, describe_run, recording, run_slug
from indattn.plot.retrieval import UNSEEN, recorded_corpus, retrieval_runs, trained_on
from indattn.plot.retrieval_figures import model_order, name
from indattn.runs import Run, noise_name

__all__ = ["centres", "centres_figure", "chosen_queries", "pairs_of", "retrieved", "retrieved_figure"]

PICTURE = 48
SHOWN = 5
EACH = 2
"""Queries that are right, nearly right, and wrong."""
NEAR = 5
"""The last rank that is nearly right."""
EXAMPLES = 4
RIGHT = "#009E73"
QUERIES = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")
MAP = "magma_r"
PLAIN = {**LINES, "axes.grid": False}


def pairs_of(run: Run) -> Pairs:
    """The corpus that a run was trained on."""
    return recorded_corpus(trained_on(run), run)


def retrieved(plotter: Plotter) -> None:
    """A page for each variant: the best pictures of two models, side by side."""
    for task, of_task in retrieval_runs(plotter).groupby("task"):
        for stem, title, table in plotter.variants(str(task), of_task, levels=1):
            shown = _two_models(table)
            if shown:
                label = shown[0].labels
                models = "-".join(run.labels["model"] for run in shown)
                said = f"{title}, noise {label['noise']:g}, seed {label['seed']}"
                plotter.save_figure(
                    retrieved_figure(shown, said),
                    f"retrieved-{stem}-{models}-noise-{noise_name(label['noise'])}-seed-{label['seed']}",
                )


def _two_models(table: pd.DataFrame) -> list[Run]:
    """Of the lowest level, the first seed that has runs of both: ``indirect`` and ``dual``, or what there is."""
    models = model_order(table["model"])
    wanted = [str(model) for model in ("indirect", "dual") if model in models]
    wanted = (wanted + [model for model in models if model not in wanted])[:2]
    of = table[table["model"].isin(wanted)].sort_values(["noise", "seed"])
    for _, runs in sorted(of.groupby(["noise", "seed"]), key=lambda group: (-group[1]["model"].nunique(), group[0])):
        first = runs.groupby("model")["path"].first()
        return [Run(Path(first[model])) for model in wanted if model in first]
    return []


def chosen_queries(ranks: NDArray[np.float64]) -> NDArray[np.int64]:
    """Two queries that are right (rank 1), two nearly (2 to 5), two wrong: those a third and two thirds into each.

    Args:
        ranks: ``(queries,)``.
    """
    kinds = [ranks < 2, (ranks >= 2) & (ranks <= NEAR), ranks > NEAR]
    chosen = []
    for kind in kinds:
        there = np.flatnonzero(kind)
        chosen += list(dict.fromkeys(there[len(there) * (k + 1) // (EACH + 1)] for k in range(min(EACH, len(there)))))
    return np.asarray(chosen, np.int64)


def retrieved_figure(runs: list[Run], title: str) -> Figure:
    """Query texts, and the first five pictures of each run; right ones framed and marked.

    Args:
        runs: of one corpus and split; the queries are chosen by the first one's ranks.
        title: what is shown.
    """
    pairs = pairs_of(runs[0])
    tests = [run.result()["per_example"][UNSEEN] for run in runs]
    queries = chosen_queries(np.asarray(tests[0]["text_ranks"]))
    with plt.rc_context(PLAIN):
        # Columns: the text, then five pictures a model with a gap before each.
        widths = [2.6, *([0.15, *[1.0] * SHOWN] * len(runs))]
        figure, grid = plt.subplots(
            len(queries),
            len(widths),
            figsize=(0.92 * sum(widths), 1.16 * len(queries) + 0.9),
            squeeze=False,
            gridspec_kw={"width_ratios": widths, "wspace": 0.1, "hspace": 0.42},
        )
        for axes in grid.flat:
            axes.set_axis_off()
        for row, query in enumerate(queries):
            text = tests[0]["texts"][query]
            said = textwrap.shorten(pairs.texts[text], 90, placeholder=" ...")
            grid[row][0].text(0, 0.5, textwrap.fill(said, 28), fontsize=9, va="center")
            for number, (run, test) in enumerate(zip(runs, tests, strict=True)):
                start = 2 + number * (SHOWN + 1)
                top = test["top"][query][:SHOWN]
                for place, image in enumerate(top):
                    axes = grid[row][start + place]
                    _picture(axes, pairs.images.read([image], PICTURE)[0])
                    if pairs.image_items[image] == pairs.text_items[text]:
                        _mark(axes)
                rank = test["text_ranks"][query]
                grid[row][start].text(
                    0,
                    -0.06,
                    f"first right one: rank {rank:g}",
                    fontsize=8,
                    va="top",
                    transform=grid[row][start].transAxes,
                )
                if row == 0:
                    grid[row][start + SHOWN // 2].set_title(name(run.labels["model"]), fontsize=11, pad=10)
        grid[0][0].set_title("text", fontsize=11, pad=10, loc="left")
        figure.suptitle(f"{title}: first five of all {len(tests[0]['images'])} pictures", fontsize=11, y=0.995)
        figure.subplots_adjust(left=0.02, right=0.98, bottom=0.05, top=1 - 0.75 / figure.get_figheight())
    return figure


def _picture(axes: Axes, pixels: NDArray[np.uint8], **keywords: Any) -> None:
    axes.imshow(pixels, interpolation="nearest", **keywords)
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, color="#CCCCCC", linewidth=0.8)


def _mark(axes: Axes) -> None:
    """A frame and a tick: not by colour alone."""
    for spine in axes.spines.values():
        spine.set(color=RIGHT, linewidth=3.2)
    axes.text(
        0.97,
        0.95,
        "\N{CHECK MARK}",
        transform=axes.transAxes,
        ha="right",
        va="top",
        color="white",
        fontsize=9,
        fontweight="bold",
        bbox={"facecolor": RIGHT, "edgecolor": "none", "pad": 1.2},
    )


def centres(plotter: Plotter) -> None:
    """Attention and centres over pictures, of the first seed of each kind of run that recorded them."""
    for run in plotter.representatives():
        recorded = recording(run)
        if "pair_attention" in recorded:
            figure = centres_figure(pairs_of(run), recorded, describe_run(run))
            plotter.save_figure(figure, f"centres-{run_slug(run)}")


def centres_figure(pairs: Pairs, recorded: dict[str, NDArray[Any]], title: str) -> Figure:
    """Recorded pairs: the picture with the queries' boxes, beside it the attention of every layer (row) and head.

    An arrow goes from the centre that enters the first layer to the one that enters the last. Attention is the mean
    over queries, all maps on one scale, over the faded picture; the cross is the cell with most.

    Args:
        pairs: the corpus.
        recorded: ``pair_texts``, ``pair_images (E,)``, ``pair_attention (L, E, H, m, n)`` and maybe ``pair_centres
            (L, E, m, 4)``: (x, y, width, height) in cells, whose middles are at whole numbers.
        title: what is shown.
    """
    attention = recorded["pair_attention"].astype(float).mean(3)  # (L, E, H, n)
    layers, there, heads, cells = attention.shape
    side = math.isqrt(cells)
    extent = (-0.5, side - 0.5, side - 0.5, -0.5)
    examples = np.linspace(0, there - 1, min(EXAMPLES, there)).round().astype(int)
    highest = max(attention[:, examples].max(), 5 / cells)  # uniform weights stay pale
    boxes = recorded.get("pair_centres")
    with plt.rc_context(PLAIN):
        figure = plt.figure(figsize=(1.25 * (layers + heads) + 1.6, 1.36 * layers * len(examples) + 1.0))
        rows = figure.add_gridspec(
            len(examples), 1, hspace=0.22, left=0.02, right=0.87, bottom=0.05, top=1 - 0.85 / figure.get_figheight()
        )
        for row, example in enumerate(examples):
            parts = rows[row].subgridspec(
                layers, heads + 1, width_ratios=[layers, *[1] * heads], wspace=0.08, hspace=0.06
            )
            pixels = pairs.images.read([int(recorded["pair_images"][example])], PICTURE)[0]
            large = figure.add_subplot(parts[:, 0])
            _picture(large, pixels, extent=extent)
            text = textwrap.shorten(pairs.texts[int(recorded["pair_texts"][example])], 64, placeholder=" ...")
            large.set_title(textwrap.fill(text, 34), fontsize=9, pad=4)
            if boxes is not None:
                _boxes(large, boxes[:, example], side)
            for layer in range(layers):
                for head in range(heads):
                    axes = figure.add_subplot(parts[layer, head + 1])
                    _attention(axes, pixels, attention[layer, example, head].reshape(side, side), highest)
                    if layer == 0 and row == 0:
                        axes.set_title(f"head {head + 1}", fontsize=9, pad=4)
                    if head == heads - 1:
                        axes.yaxis.set_label_position("right")
                        axes.set_ylabel(f"layer {layer + 1}", fontsize=9)
        height = min(0.6, 4 / figure.get_figheight())
        bar = figure.colorbar(
            ScalarMappable(Normalize(0, highest), MAP), cax=figure.add_axes((0.925, 0.5 - height / 2, 0.018, height))
        )
        bar.set_label("attention weight, mean over queries", fontsize=9)
        bar.ax.yaxis.set_label_position("left")
        bar.ax.axhline(1 / cells, color="#0072B2", linewidth=1.5)
        figure.suptitle(title, fontsize=11, y=1 - 0.15 / figure.get_figheight())
        said = "x: the cell with most weight;  blue line: 1/n"
        if boxes is not None:
            said += ";  a query's box where it enters the first layer (dotted) and the last (solid)"
        figure.text(0.02, 0.012, said, fontsize=9)
    return figure


def _attention(axes: Axes, pixels: NDArray[np.uint8], weights: NDArray[np.float64], highest: float) -> None:
    """Weights ``(rows, columns)`` over a faded picture, the more opaque the larger."""
    rows, columns = weights.shape
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    _picture(axes, (255 - (255 - pixels.astype(int)) * 2 // 5).astype(np.uint8), extent=extent)
    opaque = np.clip(0.9 * np.sqrt(weights / highest), 0, 1)
    axes.imshow(weights, cmap=MAP, vmin=0, vmax=highest, extent=extent, alpha=opaque, interpolation="nearest")
    if np.ptp(weights) > 1e-6:
        y, x = np.unravel_index(weights.argmax(), weights.shape)
        axes.plot(x, y, "x", color="#0072B2", markersize=4.5, markeredgewidth=1.4)


def _boxes(axes: Axes, boxes: NDArray[np.float64], side: int) -> None:
    """Each query's box where it enters the first layer (dashed) and the last, and an arrow between their centres."""
    for query in range(boxes.shape[1]):
        colour = QUERIES[query % len(QUERIES)]
        for layer, line in ((0, ":"), (-1, "-")):
            x, y, width, height = boxes[layer, query]
            axes.add_patch(
                Rectangle(
                    (x - width / 2, y - height / 2), width, height, fill=False, edgecolor=colour, linestyle=line, lw=1.3
                )
            )
        start, end = (tuple(boxes[layer, query, :2].tolist()) for layer in (0, -1))
        axes.plot(*start, "o", color=colour, markersize=4.5, markeredgecolor="white", markeredgewidth=0.8)
        axes.annotate(
            "",
            xy=end,
            xytext=start,
            arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2, "shrinkA": 0, "shrinkB": 0},
        )
    middle = (side - 1) / 2
    reach = max(side / 2, float((np.abs(boxes[..., :2] - middle) + boxes[..., 2:] / 2).max())) + 0.15
    axes.set(xlim=(middle - reach, middle + reach), ylim=(middle + reach, middle - reach))
