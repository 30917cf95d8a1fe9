"""On a GPU: models compute what they do on a CPU, runs train, resume and join under torchrun. Skipped without one."""

from __future__ import annotations

import copy
import math
import subprocess
import sys

import pytest
import torch
from families import OTHERS
from safetensors.torch import load_file

from indattn.build import build_misalignment, build_model, build_task
from indattn.config import group_options
from indattn.runs import Run
from indattn.tasks.base import to_device
from indattn.training import Trainer, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

MODELS = [name for name in group_options("model") if name[0] != "_" and name not in OTHERS]
SIZE = ["model.layers=2", "model.width=16", "model.heads=2", "model.bias_hidden=8", "task.n=6", "noise=0.5"]
SIZE += ["model.match_parameters=false"]
RUN = [*SIZE, "training.batch_size=8", "training.steps=8", "training.evaluate_every=2", "training.checkpoint_every=3"]
RUN += ["task.validation_size=8", "task.test_size=8", "figures=false", "threads=1"]


@pytest.fixture
def place(compose, tmp_path):
    def placed(folder, *overrides):
        config = compose(*RUN, *overrides)
        config.results_dir = str(tmp_path / folder)
        return config

    return placed


def close(one, other, rel=1e-3):
    """Two runs took the same steps, but for rounding."""
    mine, theirs = one.metrics(), other.metrics()
    assert [line["step"] for line in mine] == [line["step"] for line in theirs]
    for a, b in zip(mine, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=rel), a["step"]
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=rel), a["step"]
    before, after = (load_file(one.path / f"{name}.safetensors") for name in ("initial", "model"))
    assert max(float((after[key] - before[key]).abs().max()) for key in after) > 1e-4, "it must have learned"


@pytest.mark.parametrize("model", MODELS)
def test_a_model_computes_what_it_does_on_a_cpu(compose, model):
    config = compose(*SIZE, f"model={model}")
    task = build_task(config)
    torch.manual_seed(0)
    network = build_model(config, task)
    with torch.no_grad():  # some parts begin at zero, where the others have no gradient
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch = task.draw(8, torch.Generator().manual_seed(1), build_misalignment(config, task))
    found = []
    for device in ("cpu", "cuda"):
        here = copy.deepcopy(network).to(device)
        part = to_device(batch, torch.device(device))
        logits, _ = here(part)
        loss = task.loss(logits, part)
        loss.backward()
        gradients = {name: p.grad.cpu() for name, p in here.named_parameters() if p.grad is not None}
        found.append((logits.detach().cpu(), gradients))
    (logits, gradients), (logits_, gradients_) = found
    torch.testing.assert_close(logits_, logits, rtol=1e-3, atol=1e-4)
    assert gradients.keys() == gradients_.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_[name], gradient, rtol=2e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("model", ["standard", "indirect", "indirect_expected"])
def test_a_run_is_that_of_a_cpu_beyond_rounding(place, model):
    on_cpu, _ = train(place("cpu", f"model={model}", "device=cpu"))
    on_cuda, result = train(place("cuda", f"model={model}", "device=auto"))
    assert result["hardware"]["device"] == torch.cuda.get_device_name()
    assert on_cuda.path.name == on_cpu.path.name
    close(on_cpu, on_cuda)


@pytest.mark.parametrize(("first", "then"), [("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_that_was_stopped_resumes(place, monkeypatch, capsys, first, then):
    class Crash(Exception):
        pass

    whole, _ = train(place("whole", "device=cuda"))
    real = Trainer._train_step

    def crashing(trainer):
        if trainer.step == 5:
            raise Crash
        return real(trainer)

    config = place("cut", f"device={first}")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", crashing)
        with pytest.raises(Crash):
            train(config)
    config = place("cut", f"device={then}")
    train(config)
    assert "resuming at step 3" in capsys.readouterr().out
    close(whole, Run.of(config))


def test_autocast_to_bf16(place):
    fine, _ = train(place("fp32", "device=cuda"))
    coarse, _ = train(place("bf16", "device=cuda", "training.precision=bf16"))
    assert all(math.isfinite(line["loss"]) for line in coarse.metrics())
    close(fine, coarse, rel=0.05)


def test_torchrun_with_nccl(place, tmp_path):
    alone, _ = train(place("alone", "device=cuda"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "indattn"]
    words = [*torchrun, "train", *RUN, "device=cuda", f"results_dir={tmp_path / 'nccl'}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "nccl").glob("runs/*/*/*/*/*")
    assert path.name == alone.path.name
    close(alone, Run(path))
