"""Runs from Python, and folders that load without Hydra."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import indattn
from indattn.errors import UserError
from indattn.training import train

TINY = ["model.layers=1", "model.width=8", "model.heads=2", "task.n=4", "training.batch_size=4", "training.steps=4"]
TINY += ["training.evaluate_every=2", "task.validation_size=8", "task.test_size=8", "figures=false", "threads=1"]

LOAD = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("hydra", "hydra_plugins"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import torch
from safetensors.torch import save_file
from indattn import load_export

torch.set_num_threads(1)
run = load_export(sys.argv[1])
assert not run.model.training
batch = run.task.split("test", run.misalignment)
with torch.no_grad():
    logits, _ = run.model(batch)
save_file({"logits": logits.contiguous(), "content": batch["content"].contiguous()}, sys.argv[2])
"""


@pytest.fixture
def finished(compose):
    run, _ = train(compose("noise=0.5", *TINY))
    return run


def logits(loaded):
    with torch.no_grad():
        return loaded.model(loaded.task.split("test", loaded.misalignment))[0]


def test_a_loaded_run_is_the_run(finished):
    loaded = indattn.load_run(finished.path)
    assert not loaded.model.training
    weights = load_file(finished.path / "model.safetensors")
    assert all(torch.equal(value, weights[key]) for key, value in loaded.model.state_dict().items())
    assert loaded.config["task"]["n"] == 4
    assert type(loaded.config["training"]) is dict
    assert [line["step"] for line in loaded.metrics] == [0, 2, 4]
    scores = loaded.task.score(loaded.model, loaded.task.split("test", loaded.misalignment), torch.device("cpu"))
    assert scores.accuracy == loaded.result["test"]["accuracy"]


def test_a_run_that_cannot_be_loaded_says_why(finished, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        indattn.load_run(tmp_path / "nowhere")
    (finished.path / "result.json").unlink()
    with pytest.raises(UserError, match="not done"):
        indattn.load_run(finished.path)


@pytest.mark.parametrize("model", ["indirect", "cross"])
def test_an_export_gives_the_same_logits_without_hydra(command, compose, tmp_path, model):
    run, _ = train(compose("noise=0.5", f"model={model}", *TINY))
    code, out, err = command("export", str(run.path), "--out", "mine")
    assert (code, out, err) == (0, "mine\n", "")
    assert sorted(os.listdir(tmp_path / "mine")) == [
        *("README.md", "config.json", "metrics.json", "model.safetensors", "result.json"),
    ]
    moved = (tmp_path / "mine").rename(tmp_path / "moved")
    process = [sys.executable, "-c", LOAD, str(moved), str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(process, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    made = load_file(tmp_path / "out")
    loaded = indattn.load_run(run.path)
    assert torch.equal(made["content"], loaded.task.split("test", loaded.misalignment)["content"])
    assert torch.equal(made["logits"], logits(loaded))


def test_an_export_is_plain_and_complete(command, finished, tmp_path):
    code, out, _ = command("export", str(finished.path))
    assert code == 0
    folder = tmp_path / out.strip()
    assert folder.name == "-".join(finished.path.parts[-5:])
    config, result = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "result"))
    loaded = indattn.load_export(folder)
    assert config["model"]["match_parameters"] is False
    assert config["model"]["ffn"] == loaded.model.config.ffn
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == result["parameters"]
    assert "per_example" not in result
    assert loaded.metrics == indattn.load_run(finished.path).metrics
    readme = (folder / "README.md").read_text()
    assert f'load_export("{folder.name}")' in readme
    code = readme.split("```python\n")[1].split("```")[0]
    where = Path.cwd()
    try:
        os.chdir(tmp_path)
        exec(compile(code, "README.md", "exec"), {})
    finally:
        os.chdir(where)


def test_a_folder_that_is_there_is_not_written_over(command, finished, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("mine")
    code, _, err = command("export", str(finished.path), "out=mine")
    assert (code, err) == (2, "indattn: out=mine: is there and not empty; name another folder\n")
    assert os.listdir(tmp_path / "mine") == ["letter"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [([], "which run?"), (["a", "b"], "one finished run"), (["nowhere"], "nowhere: no such folder")],
    ids=str,
)
def test_what_cannot_be_exported(command, arguments, part):
    code, _, err = command("export", *arguments)
    assert code == 2
    assert part in err
    assert len(err.splitlines()) == 1


def test_a_damaged_export_is_named(finished, tmp_path):
    folder = indattn.export(finished.path, tmp_path / "mine")
    with pytest.raises(UserError, match=r"not what indattn export writes: it has no config\.json"):
        indattn.load_export(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match="is damaged"):
        indattn.load_export(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        indattn.load_export(folder)


def test_importing_the_package_is_light():
    code = "import sys, indattn; dir(indattn); assert not {'torch', 'numpy', 'omegaconf'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'lod_run'"):
        indattn.lod_run  # noqa: B018
    assert {"load_run", "load_export", "export"} <= set(dir(indattn))
