import copy
import functools
import os
import sys

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from indattn.cli import main
from indattn.config import configs_dir

torch.set_num_threads(1)


@functools.cache
def composed(verb, overrides):
    with initialize_config_dir(str(configs_dir()), version_base="1.3"):
        return hydra_compose(verb, overrides=list(overrides))


@pytest.fixture
def compose(tmp_path):
    def compose(*overrides, verb="train"):
        config = copy.deepcopy(composed(verb, overrides))
        # Set afterwards: a path may hold characters of the override grammar.
        if "results_dir" in config:
            config.results_dir = str(tmp_path / "results")
        return config

    return compose


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run ``indattn ...`` in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INDATTN_RESULTS", raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)  # threads=auto is one

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["indattn", *arguments])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            GlobalHydra.instance().clear()
        return code, *capsys.readouterr()

    return run
