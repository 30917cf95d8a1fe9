"""`indattn evaluate`: finished runs on other noise levels, kinds, lengths, test sets, corpora."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from indattn.build import build_misalignment, build_model, build_task
from indattn.config import check_noise, check_seed
from indattn.environment import pick_device, set_threads
from indattn.errors import UserError
from indattn.runs import FORMAT, Run, noise_name, open_run, write_json
from indattn.tasks.base import SequenceTask, Task

__all__ = ["evaluate", "load_model", "load_weights", "run"]

#: Of the scores a task has beside its accuracy, those a table has room for; csv and json files keep all.
TABLE_SCORES = ("exact", "t2i_r10", "i2t_r1", "i2t_r10", "start_median_ms", "start_mean_ms", "end_median_ms")

SPLITS = ("test", "validation")


def load_model(run: Run, task: Task, config: DictConfig, file: str = "model.safetensors") -> nn.Module:
    """A run's model with the weights of one of its checkpoints.

    Raises:
        UserError: if the checkpoint is missing, damaged, or not this model's.
    """
    config.model.backend = "auto"  # the one it was trained with may need another device
    model = build_model(config, task)
    load_weights(model, run, file)
    return model


def load_weights(model: nn.Module, run: Run, file: str) -> None:
    """Give a model the weights of one of its run's checkpoints.

    Raises:
        UserError: if the checkpoint is missing, damaged, or not this model's.
    """
    from safetensors.torch import load_file

    path = run.path / file
    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError as error:
        hint = "; the run is in the record alone, without weights: train it" if not run.done and run.known else ""
        raise UserError(f"{path}: no such checkpoint{hint}") from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is damaged or of another model ({reason}); train the run again with force=true"
        ) from error


def evaluate(
    run: Run,
    noises: list[float] | None,
    kinds: list[str] | None,
    seeds: list[int],
    device: torch.device,
    data: str | None = None,
    images: str | None = None,
    skips: Sequence[float | None] = (None,),
    lengths: Sequence[int | None] = (None,),
    split: str = "test",
) -> list[dict[str, Any]]:
    """Score a finished run on the test split under every combination of level, kind and test seed.

    Each combination is written to ``evaluations/`` in the run's folder; scores of another split are not.

    Args:
        run: a finished run.
        noises: levels; ``None`` is the level it was trained at.
        kinds: names of kinds; ``None`` is the kind it was trained with.
        seeds: test sets; 0 is the one every run is tested on when it ends.
        device: where to compute.
        data, images: another corpus, for tasks that have one: its test split.
        skips: of alignment, scores below which a word is held not to be said; ``None`` is the task's own.
        lengths: of tasks whose models read any length, ``n``; ``None`` is that of training.
        split: ``test`` or ``validation``, to choose by.

    Raises:
        UserError: if the task has no corpus, or the corpus no such split; if its models leave out no words, or have one
            length alone.
    """
    config = run.config()
    result = run.result()
    if data is not None:
        data = str(data)  # a folder may be called 2024
        if "data" not in config.task:
            raise UserError(f"data={data}: task {config.task.name} draws its own data")
        if images is not None and "images" not in config.task:
            raise UserError(f"images={images}: the corpora of task {config.task.name} have no pictures")
        config.task.data = data
        for key, value in {"images": images, "held_out": None}.items():
            if key in config.task:
                config.task[key] = value
    task = build_task(config)
    if tuple(skips) != (None,) and config.task.get("formulation", "centres") == "centres":
        raise UserError(f"skip={skips[0]}: task {config.task.name} as it was trained here leaves out no words")
    tasks: dict[int | None, Task] = {None: task}
    for length in filter(None, lengths):
        if not (isinstance(task, SequenceTask) and task.any_length):
            only = f"models of task {config.task.name} read the length alone that they were trained on"
            raise UserError(f"n={length}: {only}")
        tasks[length] = build_task(OmegaConf.merge(config, {"task": {"n": length}}))  # type: ignore[arg-type]
    cases = [
        (n, kind, noise, seed, skip, build_misalignment(config, tasks[n], kind, noise))
        for n in lengths
        for kind in (kinds or [config.misalignment.kind])
        for noise in (noises or [float(config.noise)])
        for seed in seeds
        for skip in skips
    ]
    models = {n: load_model(run, of, config).to(device) for n, of in tasks.items() if n in lengths}
    corpus = task.corpus() if data is not None else {}
    prefix = f"{re.sub(r'[^0-9A-Za-z]+', '-', Path(data).stem)}-{corpus['fingerprint'][:8]}-" if data else ""
    rows = []
    for n, kind, noise, seed, skip, misalignment in cases:
        task = tasks[n]
        if skip is not None:
            task.skip = skip  # type: ignore[attr-defined]
        scores = task.score(models[n], task.split(split, misalignment, seed), device)
        row = {
            "format": FORMAT,
            "kind": kind,
            "noise": noise,
            "test_seed": seed,
            "data": data,
            **({"n": n} if n is not None else {}),
            **({"skip": skip} if skip is not None else {}),
            **({"split": split} if split != "test" else {}),
            **({"corpus": corpus} if corpus else {}),
            "trained_kind": config.misalignment.kind,
            "trained_noise": float(config.noise),
            **scores.as_dict(),
            "chance": task.chance(),
            "ceiling": task.ceiling(kind, noise),
        }
        rows.append({**run.labels, "training_accuracy": result["test"]["accuracy"], **row})
        if split != "test":
            continue
        more = ("" if n is None else f"-n-{n}") + ("" if skip is None else f"-skip-{skip:g}")
        name = f"{prefix}{kind}-noise-{noise_name(noise)}-seed-{seed}{more}"
        write_json(run.path / "evaluations" / f"{name}.json", {**row, "per_example": scores.per_example})
    return rows


def _number(key: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{key}={value}: must be a number")
    return float(value)


def _length(value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise UserError(f"n={value}: must be a whole number from 1")
    return value


def run(config: DictConfig) -> None:
    """The verb ``evaluate``."""
    from indattn.tables import check_format, print_table

    check_format(config.format)
    if config.split not in SPLITS:
        raise UserError(f"split={config.split}: must be {' or '.join(SPLITS)}")
    if not config.run:
        raise UserError("which run? give its folder: indattn evaluate results/runs/... (`indattn show` lists them)")

    def listed(value: Any) -> list[Any] | None:
        if value is None:
            return None
        return list(value) if isinstance(value, ListConfig) else [value]

    noises = listed(config.noise)
    if noises is not None:
        noises = [check_noise(noise) for noise in noises]
    seeds = listed(config.test_seed) or [0]
    for seed in seeds:
        check_seed(seed, "test_seed")
    runs = [open_run(path) for path in listed(config.run) or []]
    for one in runs:
        one.result()  # all of them finished, before anything is computed
    device = pick_device(config.device)
    set_threads(config.threads)
    kinds = listed(config.kind)
    skips = [_number("skip", skip) for skip in listed(config.skip) or [None]]
    lengths = [_length(n) for n in listed(config.n) or [None]]
    other = (config.data, config.images, skips, lengths, config.split)
    rows = [row for one in runs for row in evaluate(one, noises, kinds, seeds, device, *other)]
    columns = [
        "task",
        "model",
        "trained_kind",
        "trained_noise",
        "seed",
        "kind",
        "noise",
        "test_seed",
        *["split"] * (config.split != "test"),
        "data",
        *["n"] * (lengths != [None]),
        *["skip"] * (skips != [None]),
        "accuracy",
        *(key for key in dict.fromkeys(key for row in rows for key in row) if key in TABLE_SCORES),
        "ceiling",
    ]
    print_table(rows, columns, config.format, title=f"{config.split.capitalize()} scores")
