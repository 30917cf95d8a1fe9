import copy
import functools

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

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
