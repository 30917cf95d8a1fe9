"""What trained heads go by: how much of their scores is bias and how much content, and whether the bias knows the data.

A head's score is ``q . k / sqrt(d_h) + f_h(j - c_i)``. Both parts vary over the values j that a query chooses among; a
constant does not change a softmax. The *position share* of a head is the variance over j of the bias by the sum of both
variances (mean over queries and examples): 1 is a head that only goes by position, 0 one that only goes by content. The
*data share* is the part of the bias's variance that differs between examples for the same query and value: 0 where the
bias is a function of the offset ``j - i`` alone, as in a first layer (figure 3 of the paper).
"""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from indattn import figures
from indattn.build import build_misalignment, build_task
from indattn.errors import UserError
from indattn.evaluation import load_model
from indattn.runs import Run, atomic, named_runs, select_runs
from indattn.tables import print_table
from indattn.tasks.base import SequenceTask, to_device
from indattn.theory.options import show_progress

__all__ = ["heads", "measure_model", "of_runs"]


def shares(weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Position and data share of each head.

    Args:
        weights: ``(B, H, m, n)``, all positive.
        bias: broadcastable to them.

    Returns:
        two ``(H,)`` in [0, 1].
    """
    weights, bias = weights.double(), bias.double().expand(weights.shape)
    content = weights.clamp(min=torch.finfo(torch.float32).tiny).log() - bias
    content, bias = (part - part.mean(-1, keepdim=True) for part in (content, bias))
    of_content, of_bias = (part.square().mean((0, 2, 3)) for part in (content, bias))
    of_data = (bias - bias.mean(0)).square().mean((0, 2, 3))
    nothing = torch.finfo(torch.float32).eps  # rounding
    return of_bias / (of_bias + of_content).clamp(min=nothing), of_data / of_bias.clamp(min=nothing)


def measure_model(model: Any, batch: dict[str, Tensor]) -> list[dict[str, float]]:
    """Shares of every layer and head of a model with a bias.

    Args:
        model: a :class:`~indattn.models.sequence.SequenceModel` in evaluation mode.
        batch: examples.

    Returns:
        one row a layer and head: ``layer, head`` (from 1), ``position_share``, ``data_share``.
    """
    with torch.no_grad():
        _, output = model(batch, record=True)
    rows = []
    for layer, (weights, bias) in enumerate(zip(output.weights, output.biases, strict=True), 1):
        of_position, of_data = shares(weights, bias)
        for head in range(weights.shape[1]):
            row = {"layer": layer, "head": head + 1}
            rows.append({**row, "position_share": of_position[head].item(), "data_share": of_data[head].item()})
    return rows


def measure_run(run: Run, examples: int, device: torch.device) -> list[dict[str, Any]]:
    """Shares of a finished run on the first examples of its validation split, with its labels."""
    config = run.config()
    task = build_task(config)
    if not isinstance(task, SequenceTask) or config.model.bias == "none":
        raise UserError(f"{run.path}: {run.labels['model']} on {task.name} has no bias over one sequence to measure")
    split = task.split("validation", build_misalignment(config, task))
    batch = to_device({key: value[:examples] for key, value in split.items()}, device)
    model = load_model(run, task, config, "model.safetensors").to(device).eval()
    labels = {**run.labels, "self_attention": config.model.self_attention, "norm": config.model.norm}
    return [{**labels, **row} for row in measure_model(model, batch)]


def of_runs(table: pd.DataFrame) -> pd.DataFrame:
    """A row a run: the largest and smallest position share of its heads, what is between, the data share by layers."""
    keys = ["task", "model", "noise", "seed", "hash", "self_attention", "norm"]
    grouped = table.groupby(keys, sort=True)["position_share"]
    rows = pd.DataFrame({"most_position": grouped.max(), "least_position": grouped.min()})
    rows["between"] = rows["most_position"] - rows["least_position"]
    rows["first_data_share"] = table[table["layer"] == 1].groupby(keys)["data_share"].max()
    rows["later_data_share"] = table[table["layer"] > 1].groupby(keys)["data_share"].mean()
    return rows.reset_index()


def heads(config: DictConfig, device: torch.device) -> list[Path]:
    """Write ``tables/heads-TASK.csv``, ``heads-TASK-runs.csv`` and a figure for each task; print a row a run.

    Raises:
        UserError: if there is no finished run with weights, or one has no bias.
    """
    chosen = [run for run in named_runs(config) or select_runs(config) if run.done]
    if not config.run:  # those that it can be said of
        chosen = [run for run in chosen if run.config().model.bias != "none"]
    if not chosen:
        raise UserError(f"no finished run with a bias matches in {config.results_dir}; its weights are needed")
    rows = [
        row
        for run in tqdm(chosen, desc="heads", unit="run", disable=not show_progress(config))
        for row in measure_run(run, config.examples, device)
    ]
    table, paths = pd.DataFrame(rows), []
    for task, of_task in table.groupby("task"):
        for name, part in ((f"heads-{task}", of_task), (f"heads-{task}-runs", of_runs(of_task))):
            path = Path(config.results_dir) / "tables" / f"{name}.csv"
            with atomic(path) as file:
                part.to_csv(file, index=False, float_format="%.6g", lineterminator="\n")
            paths.append(path)
        stem = Path(config.results_dir) / "figures" / f"heads-{task}"
        paths += figures.save(_figure(of_task, str(task)), stem)
    summary = of_runs(table).drop(columns="hash")
    rows = typing.cast("list[dict[str, Any]]", summary.to_dict("records"))
    print_table(rows, list(summary.columns), config.format, title="What heads go by, a row a run")
    return paths


def _figure(table: pd.DataFrame, task: str) -> Any:
    """Position share (left) and data share (right) of each head against the layer, a colour a kind of run."""
    kinds = list(table.groupby(["model", "noise", "self_attention"], sort=True))
    layers = int(table["layer"].max())
    with figures.plt.rc_context(figures.LINES):
        figure, axes = figures.plt.subplots(1, 2, figsize=(9.6, 3.8), sharey=True, layout="constrained")
        for number, ((model, noise, among), group) in enumerate(kinds):
            colour, marker, _ = figures.SPARE[number % len(figures.SPARE)]
            x = group["layer"] + (number - (len(kinds) - 1) / 2) * 0.25
            label = f"{model}, noise {noise:g}, self-attention {'on' if among else 'off'}"
            for one, column in zip(axes, ("position_share", "data_share"), strict=True):
                one.scatter(x, group[column], s=14, alpha=0.5, linewidth=0, color=colour, marker=marker, label=label)
        axes[0].set(title="of the scores, what is bias", ylabel="share of the variance", ylim=(-0.03, 1.03))
        axes[1].set(title="of the bias, what differs between examples")
        for one in axes:
            one.set(xlabel="layer", xticks=range(1, layers + 1))
        figures.shared_legend(figure, list(axes))
        figure.suptitle(f"What heads go by: {task.replace('_', ' ')} ({table['seed'].nunique()} seeds, a mark a head)")
    return figure
