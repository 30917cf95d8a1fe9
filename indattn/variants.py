"""What tells runs of a task and model apart beside noise and seed. No torch here."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import pandas as pd
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from indattn.config import IDENTITY, NOT_IDENTITY, configs_dir, group_options
from indattn.search_path import register

__all__ = ["default_settings", "flat_identity", "setting", "variants"]

#: Keys that a model's or a run's name already tells, or that only say how it was trained and stopped.
NAMED = ("noise", "seed", "model._target_", "model.name", "task._target_", "task.name", "misalignment._target_")


def flat_identity(full: Any) -> dict[str, Any]:
    """The dotted keys of a resolved configuration that may tell variants of a model on a task apart."""

    def flatten(node: Any, prefix: str) -> dict[str, Any]:
        if not isinstance(node, dict):
            return {prefix: node}
        return {
            k: v for key, value in node.items() for k, v in flatten(value, f"{prefix}.{key}" if prefix else key).items()
        }

    flat = flatten({key: full[key] for key in IDENTITY}, "")
    return {k: v for k, v in flat.items() if k not in NAMED and k.rpartition(".")[2] not in NOT_IDENTITY}


def variants(table: pd.DataFrame, settings: list[dict[str, Any]]) -> list[str]:
    """What differs between runs of the same task and model, other than noise and seed: ``key=value, ...``.

    Of a key that only some of a task's models have, those say the value where it is not their default.

    Args:
        table: a row a run, in the order 0, 1, ...: ``task``, ``model``, ``noise``.
        settings: of each, its :func:`flat_identity`.
    """
    differing: dict[str, set[str]] = {}
    for task, of_task in table.groupby("task"):
        for _, group in of_task.groupby("model"):
            keys = {key for i in group.index for key in settings[i]}
            for key in keys:
                values = [settings[i].get(key) for i in group.index]
                follows = values == group["noise"].tolist()  # and then the level tells it
                if len(set(map(str, values))) > 1 and not follows:
                    differing.setdefault(str(task), set()).add(key)
    shared = {
        str(task): set.intersection(*(set(settings[int(str(i))]) for i in of_task.index))
        for task, of_task in table.groupby("task")
    }
    defaults = functools.cache(default_settings)
    labels = []
    for i, row in table.iterrows():
        own, task = settings[int(str(i))], str(row["task"])
        said = []
        for key in sorted(differing.get(task, ())):
            value = setting(key, own.get(key))
            if key in shared[task] or (key in own and value not in defaults(task, str(row["model"]))):
                said.append(value)
        labels.append(", ".join(said))
    return labels


def setting(key: str, value: Any) -> str:
    """``key=value`` without the section that the key is in."""
    short = "kind" if key == "misalignment.kind" else key
    for section in ("model.", "task.", "training."):
        short = short.removeprefix(section)
    if value is None or isinstance(value, bool):
        value = {True: "true", False: "false", None: "null"}[value]
    return f"{short}={value}"


def default_settings(task: str, model: str | None = None) -> set[str]:
    """What a run of a task, and a model, is by default, each setting as in a variant; nothing where none is known."""
    if task not in group_options("task"):
        return set()
    register()
    started = GlobalHydra.instance().is_initialized()  # by the command
    with contextlib.nullcontext() if started else initialize_config_dir(str(configs_dir()), version_base="1.3"):
        config = compose("train", overrides=[f"task={task}", *([f"model={model}"] if model else [])])
    return {setting(key, value) for key, value in flat_identity(OmegaConf.to_container(config, resolve=True)).items()}
