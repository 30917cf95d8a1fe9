"""The theory after training: sharpness, signal-to-noise ratio and misalignment energy of runs that kept checkpoints.

Sections 3 and 4 of the paper speak of weights before training. Here every checkpoint of a run reads a misaligned batch
and its *aligned twin*, the same examples at noise 0, and each layer's heads are measured over the scored queries:

- *forward*: the head's output against its output in the twin's own forward pass, ``E||o'||^2 / E||o - o'||^2``;
  *centred*: the same with the energy of o' about its mean over queries and examples, for a constant output is large but
  tells nothing;
- *values*: against what the same content scores would have read from aligned values, section 4's
  ``Delta o = sum_i a_i W_v (y_i - x_i)``: ``o* = sum_j p_ij v'_j`` with p the softmax of ``q . k`` alone and v' the
  twin's values. Without a bias this is the paper's gamma; with one it tells whether the bias repairs the reading;
- *sharpness* ``sum_j a_ij^2``, and the *weight on the right value*, where the task says which that is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from indattn.attention.functional import attention_weights
from indattn.build import build_misalignment, build_task
from indattn.errors import UserError
from indattn.evaluation import load_model, load_weights
from indattn.misalignment import Batch
from indattn.plot.scores import run_table
from indattn.runs import Run, atomic, named_runs, select_runs
from indattn.statistics import mean_interval
from indattn.tables import name_suffix, print_table
from indattn.tasks.base import SequenceTask, to_device
from indattn.theory.options import show_progress

__all__ = ["checkpoints", "follow", "measure_model", "measure_run", "order"]

#: Energies of which the ratios are made; sums over heads give those of a layer.
ENERGIES = ("forward_signal", "forward_spread", "forward_noise", "values_signal", "gamma")
#: What the order of events is told of: the column, whether it is a ratio, and the least rise that counts as one.
EVENTS = {
    "snr_forward": (True, math.log(1.5)),
    "snr_centred": (True, math.log(1.5)),
    "snr_values": (True, math.log(1.5)),
    "right_weight": (False, 0.1),
}
LEAST_LEARNT = 0.2


def checkpoints(run: Run) -> dict[int, str]:
    """Files of weights by step, those before and after training among them.

    Raises:
        UserError: if the run kept none in between.
    """
    kept = {int(path.stem.removeprefix("step-")): path.name for path in run.path.glob("step-*.safetensors")}
    if not kept:
        raise UserError(
            f"{run.path} kept no checkpoints; train it with training.keep_checkpoints=[0,100,200] force=true"
        )
    ends = {0: "initial.safetensors", run.result()["steps"]: "model.safetensors"}
    return dict(sorted((ends | kept).items()))


# Measuring -------------------------------------------------------------------------------------------------------


def measure_model(model: Any, task: SequenceTask, batch: Batch, twin: Batch) -> list[dict[str, float]]:
    """Energies of every layer and head over the scored queries.

    Args:
        model: a :class:`~indattn.models.sequence.SequenceModel` in evaluation mode.
        task: its task.
        batch: misaligned examples.
        twin: the same examples, aligned.

    Returns:
        one row a layer and head: ``accuracy``, ``layer, head`` (from 1), ``sharpness``, :data:`ENERGIES`,
        ``right_weight``; NaN where keys and values come from the same sequence (values) or the task does not know the
        right value.
    """
    inputs: list[tuple[Tensor, Tensor]] = []
    hooks = [
        layer.attention.register_forward_pre_hook(lambda _, given: inputs.append(given[:2]))
        for layer in model.decoder.layers
    ]
    with torch.no_grad():
        logits, output = model(batch, record=True)
        accuracy = task.correct(logits, batch).double().mean().item()
        for hook in hooks:
            hook.remove()
        _, aligned = model(twin, record=True)
        _, keys, values = model.roles(batch)
        _, _, twin_values = model.roles(twin)
        misaligned = keys is not values
        right = task.answer_positions(batch)

        def scored(x: Tensor) -> Tensor:
            """``(B, H, m, k)`` to ``(B, H, r, k)``."""
            read = task.readout(x.transpose(1, 2).flatten(2), batch, model.queries_from)
            return read.unflatten(2, (x.shape[1], -1)).transpose(1, 2)

        rows = []
        for number, layer in enumerate(model.decoder.layers):
            attention = layer.attention
            weights, twin_weights = output.weights[number], aligned.weights[number]
            v, twin_v = (_heads(attention.v_proj(x), attention.num_heads) for x in (values, twin_values))
            read, forward = scored(weights @ v), scored(twin_weights @ twin_v)
            measured = {
                "sharpness": scored(weights).square().sum(-1).mean((0, 2)),
                "forward_signal": _energy(forward),
                "forward_noise": _energy(read - forward),
                "forward_spread": _energy(forward - forward.mean((0, 2), keepdim=True)),
            }
            if misaligned:
                query, context = inputs[number]
                context = F.pad(context, (0, 0, 0, v.shape[2] - context.shape[1]))
                q, k = (
                    _heads(projected, attention.num_heads)
                    for projected in (attention.q_proj(query), attention.k_proj(context))
                )
                meant = scored(attention_weights(q, k) @ twin_v)
                signal, gamma = _energy(meant), _energy(read - meant)
                # Two softmaxes of the same scores may differ by rounding: that is no misalignment.
                gamma = gamma.masked_fill(gamma < 1e-9 * signal, 0.0)
                measured |= {"values_signal": signal, "gamma": gamma}
            if right is not None:
                at = right[:, None, :, None].expand(-1, weights.shape[1], -1, -1)
                measured["right_weight"] = scored(weights).gather(-1, at).mean((0, 2, 3))
            for head in range(attention.num_heads):
                row: dict[str, float] = {"accuracy": accuracy, "layer": number + 1, "head": head + 1}
                for name in ("sharpness", *ENERGIES, "right_weight"):
                    row[name] = measured[name][head].item() if name in measured else math.nan
                rows.append(row)
    return rows


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _energy(x: Tensor) -> Tensor:
    """``(B, H, r, d_h)`` to the mean squared norm of each head, ``(H,)``."""
    return x.double().square().sum(-1).mean((0, 2))


def measure_run(run: Run, examples: int, device: torch.device, step_done: Callable[[], Any]) -> pd.DataFrame:
    """Every checkpoint of a run on the first examples of its validation split.

    Returns:
        the rows of :func:`measure_model` with the run's labels, ``chance``, ``ceiling``, ``step`` and ``accuracy``.
    """
    config = run.config()
    task = build_task(config)
    if not isinstance(task, SequenceTask):
        raise UserError(f"{run.path}: task {task.name} has no twin without misalignment to measure it by")
    misaligned, aligned = build_misalignment(config, task), build_misalignment(config, task, noise=0.0)
    batch, twin = (
        to_device({key: value[:examples] for key, value in task.split("validation", kind).items()}, device)
        for kind in (misaligned, aligned)
    )
    result = run.result()
    bounds = {key: math.nan if result[key] is None else result[key] for key in ("chance", "ceiling")}
    files = checkpoints(run)
    model = load_model(run, task, config, files[0]).to(device).eval()
    rows = []
    for step, file in files.items():
        load_weights(model, run, file)
        labels = {**run.labels, **bounds, "step": step}
        rows += [{**labels, **row} for row in measure_model(model, task, batch, twin)]
        step_done()
    return pd.DataFrame(rows)


def by_layer(heads: pd.DataFrame) -> pd.DataFrame:
    """A layer's heads together: energies added up, sharpness and right weight averaged, the best head's weight too."""
    keys = ["task", "model", "noise", "seed", "hash", "chance", "ceiling", "step", "accuracy", "layer"]
    grouped = heads.groupby(keys, sort=False, dropna=False)
    sums = grouped[list(ENERGIES)].sum(min_count=1)
    table = grouped[["sharpness", "right_weight"]].mean().join(sums)
    table["best_right_weight"] = grouped["right_weight"].max()
    return _ratios(table.reset_index())


def _ratios(table: pd.DataFrame) -> pd.DataFrame:
    """With the ratios; infinite where nothing differs from the twin."""
    with np.errstate(divide="ignore"):
        table["snr_forward"] = table["forward_signal"] / table["forward_noise"]
        table["snr_centred"] = table["forward_spread"] / table["forward_noise"]
        table["snr_values"] = table["values_signal"] / table["gamma"]
    return table.drop(columns=["forward_signal", "forward_spread", "forward_noise", "values_signal"])


# What comes first ------------------------------------------------------------------------------------------------


def half_way(steps: np.ndarray, values: np.ndarray, least: float) -> float:
    """The step at which a curve passes, for the last time, half of its rise from its lowest to its last value.

    Linear between checkpoints; NaN if the rise is below ``least`` or the curve is not finite.
    """
    low, last = values.min(), values[-1]
    if not np.isfinite(values).all() or last - low < least:
        return math.nan
    half = (low + last) / 2
    below = int(np.flatnonzero(values < half)[-1])
    part = (half - values[below]) / (values[below + 1] - values[below])
    return float(steps[below] + part * (steps[below + 1] - steps[below]))


def order(layers: pd.DataFrame) -> pd.DataFrame:
    """Whether a layer's ratio rises before the accuracy: steps from half of its rise to half of the accuracy's.

    Returns:
        one row a task, model, noise, layer and event: ``seeds`` in which both rose, the mean ``step`` of the event,
        the mean ``lead`` (positive: before the accuracy) with its 95% interval ``low, high``.
    """
    rows = []
    for key, group in layers.groupby(["task", "model", "noise", "layer"], sort=False):
        for event, (ratio, least) in EVENTS.items():
            steps, leads = [], []
            for _, curve in group.sort_values("step").groupby(["seed", "hash"]):
                at = curve["step"].to_numpy(dtype=float)
                with np.errstate(divide="ignore"):
                    values = np.log(curve[event].to_numpy()) if ratio else curve[event].to_numpy()
                learnt = half_way(at, curve["accuracy"].to_numpy(), LEAST_LEARNT)
                risen = half_way(at, values, least)
                if not math.isnan(learnt - risen):
                    steps.append(risen)
                    leads.append(learnt - risen)
            row = dict(zip(("task", "model", "noise", "layer"), key, strict=True)) | {
                "event": event,
                "seeds": len(leads),
            }
            if leads:
                lead = mean_interval(leads)
                row |= {"step": float(np.mean(steps)), "lead": lead.mean, "low": lead.low, "high": lead.high}
            rows.append(row)
    return pd.DataFrame(rows)


# The command -----------------------------------------------------------------------------------------------------


def follow(config: DictConfig, device: torch.device) -> list[Path]:
    """``indattn theory training``: measures the chosen runs, tells the order of events, draws; the paths written.

    Raises:
        UserError: if no run kept checkpoints, or one named did not.
    """
    from indattn.theory import training_figures

    examples, suffix = config.examples, name_suffix(config)
    if isinstance(examples, bool) or not isinstance(examples, int) or examples < 1:
        raise UserError(f"examples={examples}: must be a whole number of at least 1")
    runs = named_runs(config)
    for run in runs:
        run.result()
    if not runs:
        kept = [run for run in select_runs(config) if run.done and any(run.path.glob("step-*.safetensors"))]
        runs = [run for run in kept if isinstance(build_task(run.config()), SequenceTask)]
    if not runs:
        raise UserError(
            f"no finished run in {config.results_dir} kept checkpoints; "
            "`indattn train experiment=theory_training` makes some (force=true where the runs are there without)"
        )
    for task, of_task in run_table(runs).groupby("task"):
        variants = sorted(of_task["variant"].unique())
        if len(variants) > 1:
            raise UserError(
                f"runs of {task} differ in more than model, noise and seed ({' / '.join(variants)}): "
                "choose those of one kind with run=PATH,... or filters"
            )
    total = sum(len(checkpoints(run)) for run in runs)
    with tqdm(total=total, desc="training", unit="checkpoint", disable=not show_progress(config)) as bar:
        heads = pd.concat([measure_run(run, examples, device, bar.update) for run in runs], ignore_index=True)
    root = Path(config.results_dir)
    paths: list[Path] = []
    for task, of_task in heads.groupby("task"):
        layers = by_layer(of_task)
        last = of_task[of_task["step"] == of_task.groupby("hash")["step"].transform("max")]
        events = order(layers)
        stem = f"theory-training-{task}"
        for name, table in ((stem, layers), (f"{stem}-heads", _ratios(last.copy())), (f"{stem}-order", events)):
            path = root / "tables" / f"{name}{suffix}.csv"
            with atomic(path) as file:
                table.to_csv(file, index=False, float_format="%.4g")
            paths.append(path)
        for name, figure in training_figures.all_figures(layers, str(task)).items():
            paths += training_figures.save(figure, root / "figures" / f"{stem}{name}{suffix}")
        rows = summary(layers, events)
        print_table(rows, list(rows[0]), config.format, title=f"{task}: at the last checkpoint, over seeds")
    return paths


def summary(layers: pd.DataFrame, events: pd.DataFrame) -> list[dict[str, Any]]:
    """One row a model, noise and layer: accuracy, ratios at the start and the end (geometric means), the leads."""
    rows = []
    for key, group in layers.groupby(["model", "noise", "layer"], sort=True):
        row: dict[str, Any] = dict(zip(("model", "noise", "layer"), key, strict=True))
        ends = group.groupby("hash")["step"]
        first, last = group[group["step"] == ends.transform("min")], group[group["step"] == ends.transform("max")]
        row["accuracy"] = float(last["accuracy"].mean())
        for name in ("snr_centred", "snr_values"):
            with np.errstate(divide="ignore"):
                row |= {
                    f"{name}_{when}": float(np.exp(np.log(table[name]).mean()))
                    for when, table in (("start", first), ("end", last))
                }
        row["right_weight"] = float(last["right_weight"].mean())
        here = events[(events[["model", "noise", "layer"]] == pd.Series(key, ["model", "noise", "layer"])).all(axis=1)]
        for name in ("snr_centred", "right_weight"):
            lead = here[here["event"] == name].iloc[0].to_dict()
            interval = f" [{lead['low']:+.0f}, {lead['high']:+.0f}]" if lead["seeds"] > 1 else ""
            row[f"lead_{name}"] = f"{lead['lead']:+.0f}{interval}" if lead["seeds"] else None
        rows.append({k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})
    return rows
