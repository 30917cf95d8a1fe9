"""From composed configuration to checked values. Imports no torch: the verbs that only read stay quick."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import inspect
import json
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from indattn.errors import UserError, nearest
from indattn.trees import configs_dir, find_option, group_options

__all__ = [
    "TrainingConfig",
    "as_floats",
    "check_noise",
    "check_seed",
    "config_hash",
    "configs_dir",
    "construct",
    "group_options",
    "load_option",
    "locate",
    "section",
]

T = TypeVar("T")


def load_option(group: str, name: str) -> DictConfig:
    """One file of a config group, by itself.

    Raises:
        UserError: if the group has no such file.
    """
    file = find_option(group, name)
    if file is None:
        raise UserError(f"{group}={name}: no such {group}{nearest(name, group_options(group), 20)}")
    return typing.cast(DictConfig, OmegaConf.load(file))


@dataclass
class TrainingConfig:
    """The section ``training`` of ``configs/train.yaml``.

    Attributes:
        steps: optimiser steps.
        batch_size: examples a step.
        lr, weight_decay: of AdamW.
        warmup_steps: steps over which the learning rate rises to ``lr``.
        decay_fraction: part of the steps, at the end, over which it falls to zero; constant in between.
        grad_clip: largest norm of the gradient.
        evaluate_every: steps between evaluations on the validation split.
        checkpoint_every: steps between saved states, from which an interrupted run resumes.
        keep_checkpoints: steps whose weights are kept beside the last.
        precision: ``fp32``, or ``bf16`` for autocast.
        accumulate: parts in which a batch goes through the model, one after another, to save memory; the step is that
            of the whole batch.
    """

    steps: int = 1000
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    decay_fraction: float = 0.25
    grad_clip: float = 1.0
    evaluate_every: int = 50
    checkpoint_every: int = 200
    keep_checkpoints: list[int] = field(default_factory=list)
    precision: str = "fp32"
    accumulate: int = 1

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0: up over the warm-up, level, down to zero over the decay."""
        rising = (step + 1) / self.warmup_steps if self.warmup_steps else 1.0
        decay = self.decay_fraction * self.steps
        falling = (self.steps - step) / decay if decay else 1.0
        return self.lr * min(1.0, rising, falling)

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "evaluate_every", "checkpoint_every", "accumulate"):
            if getattr(self, key) < 1:
                raise UserError(f"training.{key}={getattr(self, key)}: must be at least 1")
        for key in ("weight_decay", "warmup_steps"):
            if not getattr(self, key) >= 0:
                raise UserError(f"training.{key}={getattr(self, key)}: must not be negative")
        for key in ("lr", "grad_clip"):
            if not getattr(self, key) > 0:
                raise UserError(f"training.{key}={getattr(self, key)}: must be positive")
        if not 0 <= self.decay_fraction <= 1:
            raise UserError(f"training.decay_fraction={self.decay_fraction}: must be from 0 to 1")
        if self.precision not in ("fp32", "bf16"):
            raise UserError(f"training.precision={self.precision!r}: must be 'fp32' or 'bf16'")
        for step in self.keep_checkpoints:
            if not 0 <= step <= self.steps:
                raise UserError(f"training.keep_checkpoints has step {step}: must be 0 to training.steps={self.steps}")


def check_noise(noise: Any, key: str = "noise") -> float:
    """A level of misalignment.

    Raises:
        UserError: if it is not a number in [0, 1].
    """
    if isinstance(noise, bool) or not isinstance(noise, int | float):
        raise UserError(f"{key}={noise}: must be a number from 0 to 1")
    if math.isnan(noise) or not 0 <= noise <= 1:
        raise UserError(f"{key}={noise}: must be from 0 (no misalignment) to 1 (the most)")
    return float(noise)


def check_seed(seed: Any, key: str = "seed") -> int:
    """A seed of random numbers.

    Raises:
        UserError: if it is not a whole number from 0 to 2^32 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UserError(f"{key}={seed}: must be a whole number from 0 to 2^32 - 1")
    return seed


def locate(path: str, base: type[T], key: str) -> type[T]:
    """The class at an import path.

    Raises:
        UserError: if there is none, it is not a subclass of ``base``, or lacks what ``base`` leaves to subclasses.
    """
    module, _, name = str(path).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever a module of somebody else's raises
        missing = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        hint = "; install its package, or put the folder it lies in on PYTHONPATH" if missing else ""
        reason = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{key}={path}: cannot import it ({reason}){hint}") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{key}={path}: must be a subclass of {base.__module__}.{base.__name__}")
    if inspect.isabstract(found):
        attributes = {name: getattr(found, name, None) for name in dir(found)}
        lacking = ", ".join(name for name, value in attributes.items() if getattr(value, "__isabstractmethod__", False))
        raise UserError(f"{key}={path}: the class does not define {lacking}, as {base.__name__} asks")
    return found


def section(schema: type[T], values: Any, where: str, extra: dict[str, Any] | None = None) -> T:
    """A dataclass filled from a section of the configuration, keys and types checked.

    Args:
        schema: the dataclass.
        values: the section.
        where: its name, for messages.
        extra: values that come from elsewhere in the configuration, never from the section.

    Raises:
        UserError: for an unknown key or a value of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where}={values}: must be a section with keys of its own, as {where}.KEY=VALUE")
    content = OmegaConf.to_container(values, resolve=True) if isinstance(values, DictConfig) else dict(values)
    extra = extra or {}
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, schema)) if f.init}
    given = {str(key): value for key, value in typing.cast(dict, content).items()}
    known = fields.keys() - extra.keys()
    for key in given:
        if key not in known:
            raise UserError(f"{where}.{key}: no such key{nearest(key, known, all_if_few=20)}")
    empty, merged = OmegaConf.structured(schema), given | extra
    try:
        whole = OmegaConf.merge(empty, merged)
    except OmegaConfBaseException:
        for key, value in merged.items():  # which of them it is
            try:
                OmegaConf.merge(empty, {key: value})
            except OmegaConfBaseException as error:
                raise UserError(f"{where}.{key}={value}: must be of type {fields[key].type}") from error
        raise
    return typing.cast(T, OmegaConf.to_object(whole))


def as_floats(config: DictConfig, where: str, schema: type) -> None:
    """Turn whole numbers into floats where the schema has floats: ``lr=1`` and ``lr=1.0`` are one configuration."""
    values = config[where]
    if not isinstance(values, DictConfig):
        return
    for field_ in dataclasses.fields(schema):
        value = values.get(field_.name)
        if field_.type == "float" and isinstance(value, int) and not isinstance(value, bool):
            values[field_.name] = float(value)


def construct(config: DictConfig, base: type[T], where: str, extra: dict[str, Any] | None = None) -> T:
    """The object a section describes: its class is at ``_target_``, its other keys are the arguments.

    ``name``, ``kind`` or ``family`` repeats a constant of the class and is no argument.
    """
    cls = locate(config.get("_target_", ""), base, f"{where}._target_")
    labels = [key for key in ("name", "kind", "family") if hasattr(cls, key)]
    arguments = {key: config[key] for key in config if key not in ("_target_", *labels)}
    return section(cls, OmegaConf.create(arguments), where, extra)


#: What makes two runs different. Everything else (device, backend, threads, folders, checkpoints kept, parts of a
#: batch) does not change what is computed beyond rounding.
IDENTITY = ("task", "model", "misalignment", "noise", "seed", "training")
NOT_IDENTITY = ("keep_checkpoints", "checkpoint_every", "accumulate", "backend")


def config_hash(config: DictConfig | dict[str, Any]) -> str:
    """Eight hex digits over everything in the configuration that can change a run's numbers."""
    full = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config
    identity = {key: typing.cast(dict, full)[key] for key in IDENTITY}
    identity["noise"] = float(identity["noise"])
    # A task's number may follow the level: 0 and 0.0 are one.
    identity["task"] = {
        key: int(value) if isinstance(value, float) and value.is_integer() else value
        for key, value in identity["task"].items()
    }
    for key in ("training", "model"):
        identity[key] = {k: v for k, v in identity[key].items() if k not in NOT_IDENTITY}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def nearest_key(path: str, known: Iterable[str]) -> str:
    """A hint for a misspelt dotted key: the nearest full key, by whole path or by its last part."""
    names = sorted(set(known))
    close = difflib.get_close_matches(path, names, n=2, cutoff=0.6)
    if not close:
        last = path.rpartition(".")[2]
        tails = {name.rpartition(".")[2]: name for name in names}
        close = [tails[tail] for tail in difflib.get_close_matches(last, tails, n=2, cutoff=0.6)]
    return f"; did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
