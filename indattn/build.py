"""From a composed configuration to the objects of a run. The only place where names become classes."""

from __future__ import annotations

import sys
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from indattn.attention.backends import why_not
from indattn.attention.bias import PositionBias, bias_options, make_bias
from indattn.config import check_noise, construct, load_option, locate, section
from indattn.environment import pick_device
from indattn.errors import UserError
from indattn.misalignment import Misalignment
from indattn.models.base import Model
from indattn.models.decoder import ModelConfig
from indattn.models.matching import match_parameters
from indattn.tasks.base import Task

__all__ = ["build_misalignment", "build_model", "build_task", "model_class"]

SEQUENCES = "indattn.models.sequence"
FAMILIES = {SEQUENCES, "indattn.models.pairs", "indattn.models.alignment"}
"""Modules of the families of models; a task's configuration names its family's (one of one's own too), or is of
sequences."""


def build_task(config: DictConfig) -> Task:
    """The task of a configuration."""
    return construct(config.task, Task, "task")  # type: ignore[type-abstract]


def build_misalignment(
    config: DictConfig, task: Task, kind: str | None = None, noise: float | None = None
) -> Misalignment:
    """The misalignment of a configuration, or another kind or level for the same task.

    Raises:
        UserError: if the task does not have the kind, or the level is not in [0, 1].
    """
    chosen = config.misalignment
    if kind is not None and kind != chosen.kind:  # the own kind has the options that the configuration gives it
        chosen = load_option("misalignment", kind)
        chosen = OmegaConf.merge(OmegaConf.create({"model": config.model}), {"misalignment": chosen}).misalignment
    target = str(chosen.get("_target_", ""))
    made_for = locate(target, Misalignment, "misalignment._target_").tasks  # type: ignore[type-abstract]
    if chosen.kind not in task.kinds and task.name not in made_for:
        raise UserError(f"misalignment={chosen.kind}: task {task.name} has {', '.join(task.kinds)}")
    level = check_noise(config.noise if noise is None else noise)
    made = construct(chosen, Misalignment, "misalignment", {"noise": level})  # type: ignore[type-abstract]
    if made.kind != chosen.kind:
        raise UserError(f"misalignment.kind={chosen.kind}: {chosen._target_} is of kind {made.kind}")
    return made


def model_class(config: DictConfig) -> type[Model]:
    """The class of a configuration's model.

    Raises:
        UserError: if there is none, or it is of another task's family.
    """
    target = str(config.model.get("_target_", ""))
    module = target.rpartition(".")[0]
    family = OmegaConf.select(config, "task.family", default=SEQUENCES)
    elsewhere = f"model={config.model.get('name')}: not for task={OmegaConf.select(config, 'task.name')}"
    try:
        found = locate(target, Model, "model._target_")
    except UserError as error:
        if module == family in sys.modules and isinstance(error.__cause__, AttributeError):
            raise UserError(elsewhere) from error
        raise
    # A model of one's own may be of no family, and a family of one's own may build on another; what comes first in the
    # class's ancestry says whose it is.
    owner = next((base.__module__ for base in found.__mro__ if base.__module__ in FAMILIES | {family}), family)
    if module != family and owner != family:
        raise UserError(elsewhere)
    return found


def build_model(config: DictConfig, task: Task) -> Model:
    """The model of a configuration, its parameters matched and freshly initialised."""
    made = model_class(config)
    settings = section(made.config_class, _without_target(config.model), "model")
    settings.check()
    _check_bias(settings, pick_device(config.get("device", "auto")))
    if settings.match_parameters:
        settings = match_parameters(made, task, settings)
    return made(task, settings)


def _check_bias(settings: ModelConfig, device: torch.device) -> None:
    """That there is such a bias, that its columns fit into the heads, and that the backend can compute it."""
    bias: PositionBias | None = None
    if settings.bias != "none":
        options = bias_options(settings.bias, settings.bias_hidden, settings.bias_frequencies)
        try:
            bias = make_bias(settings.bias, settings.heads, settings.offset_scale, **options, device="meta", dtype=None)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"model.bias={settings.bias!r}: {error}") from error
    width = settings.width // settings.heads
    if settings.bias_columns == "inside" and not 0 < (bias.rank if bias else 0) < width:
        raise UserError(f"model.bias_columns='inside': needs a separable bias narrower than a head ({width})")
    reason = None if settings.backend == "auto" else why_not(settings.backend, bias, device, None, settings.dropout)
    if reason:
        raise UserError(f"model.backend={settings.backend!r} cannot run: {reason}")


def _without_target(config: DictConfig) -> dict[str, Any]:
    return {str(key): config[key] for key in config if key != "_target_"}
