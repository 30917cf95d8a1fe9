"""`indattn theory`: sections 3 and 4 of the paper as closed forms, measured, and followed through training."""

from __future__ import annotations

import importlib
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from indattn.config import check_seed
from indattn.environment import pick_device, set_threads
from indattn.errors import UserError, nearest
from indattn.tables import check_format

__all__ = ["THEORIES", "run"]

#: Name and function from the configuration and a device to the files it wrote.
THEORIES = {
    "figure1": "indattn.theory.figure1:figure1",
    "threshold": "indattn.theory.threshold:threshold",
    "lemmas": "indattn.theory.lemmas:lemmas",
    "setting": "indattn.theory.single:single",
    "training": "indattn.theory.training:follow",
}


def run(config: DictConfig) -> None:
    """The verb ``theory``: measures, writes tables and figures into the tree, prints where."""
    if not isinstance(config.theory, ListConfig):
        raise UserError(f"theory={config.theory}: must be a list, as theory=[figure1]")
    for name in config.theory:
        if name not in THEORIES:
            raise UserError(f"theory {name!r}: there is none of that name{nearest(name, THEORIES, all_if_few=8)}")
    check_format(config.format)
    check_seed(config.random_seed, "random_seed")
    if config.progress not in ("auto", True, False):
        raise UserError(f"progress={config.progress}: must be auto, true or false")
    set_threads(config.threads)
    device = pick_device(config.device)
    for name in dict.fromkeys(config.theory or ["figure1", "threshold", "lemmas"]):
        module, _, function = THEORIES[name].partition(":")
        paths: list[Path] = getattr(importlib.import_module(module), function)(config, device)
        for path in paths:
            print(path)
