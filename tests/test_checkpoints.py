"""The last two states of a run: damage, crashes between their renames, and files of other versions."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import load_file

from indattn.errors import UserError
from indattn.runs import BEFORE, FORMAT, LAST, Run, write_json
from indattn.training import Trainer, train

TINY = ["model.layers=1", "model.width=8", "model.heads=2", "task.n=4", "training.batch_size=4", "model.dropout=0.3"]
TINY += ["task.validation_size=8", "task.test_size=8", "figures=false", "threads=1", "device=cpu"]
TINY += ["training.steps=7", "training.evaluate_every=1", "training.checkpoint_every=2"]


class Crash(Exception):
    """Stands for anything that ends the process."""


@pytest.fixture(scope="module")
def shared():
    return {}


@pytest.fixture
def whole(compose, tmp_path, shared):
    """The curve and the weights of the run when nothing happens."""
    if not shared:
        config = compose(*TINY)
        config.results_dir = str(tmp_path / "whole")
        run, _ = train(config)
        shared.update(curve=losses(run), weights=load_file(run.path / "model.safetensors"))
    return shared


def losses(run):
    return [(line["step"], line["loss"], line["train_loss"]) for line in run.metrics()]


def same(run, whole):
    """Assert that a run ended as if nothing had happened, and left no state."""
    assert losses(run) == whole["curve"]
    weights = load_file(run.path / "model.safetensors")
    assert all(torch.equal(weights[key], value) for key, value in whole["weights"].items())
    assert not [path.name for path in run.path.iterdir() if path.name.startswith((".trainer", "trainer"))]


@pytest.fixture
def cut(compose, monkeypatch):
    """A configuration whose run died after step 5, its states of steps 2 and 4 saved."""
    config = compose(*TINY)
    real = Trainer._train_step
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", lambda trainer: dying(trainer, real))
        with pytest.raises(Crash):
            train(config)
    return config


def dying(trainer, real):
    if trainer.step == 5:
        raise Crash
    return real(trainer)


def step_of(file):
    return torch.load(file, weights_only=True)["step"]


def damage(path, how):
    content = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "half":
        path.write_bytes(content[: len(content) // 2])
    elif how == "zeros":  # what a power failure may leave of a file whose blocks were not written
        path.write_bytes(bytes(len(content)))
    elif how == "optimiser":
        state = torch.load(path, weights_only=True)
        torch.save({**state, "optimiser": {}}, path)


def test_two_states_are_kept(cut):
    path = Run.of(cut).path
    assert (step_of(path / BEFORE), step_of(path / LAST)) == (2, 4)


@pytest.mark.parametrize("how", ["empty", "half", "zeros", "optimiser"])
def test_a_damaged_last_state_falls_back_to_the_one_before(cut, whole, capsys, how):
    run = Run.of(cut)
    damage(run.path / LAST, how)
    capsys.readouterr()
    train(cut)
    said, resumed, *_ = capsys.readouterr().out.splitlines()
    assert said == f"{run.path / LAST} is damaged; the state before it, of step 2, is taken up"
    assert resumed.startswith("resuming at step 2:")
    same(run, whole)


def test_the_damaged_state_does_not_push_out_the_good_one(cut, monkeypatch):
    run = Run.of(cut)
    damage(run.path / LAST, "half")
    real = Trainer._save_state

    def save(trainer):
        assert step_of(run.path / LAST) == 2, "the good one is the last now"
        real(trainer)
        assert (step_of(run.path / BEFORE), step_of(run.path / LAST)) == (2, 4)
        raise Crash

    monkeypatch.setattr(Trainer, "_save_state", save)
    with pytest.raises(Crash):
        train(cut)


def test_only_two_damaged_states_stop_the_run(cut, command, whole):
    run = Run.of(cut)
    damage(run.path / LAST, "half")
    damage(run.path / BEFORE, "empty")
    code, _, err = command("train", *TINY)
    assert code == 2
    (line,) = err.splitlines()
    assert line.endswith(f"{LAST} and {BEFORE} are damaged; force=true trains the run from the start")
    cut.force = True
    train(cut)
    same(run, whole)


@pytest.mark.parametrize("call", range(1, 12))
def test_dying_at_any_rename_ends_bit_identical(compose, monkeypatch, whole, call):
    """Configuration, weights and recording before training, then the states: one, two, and two renames for each."""
    config = compose(*TINY)
    calls = []
    real = os.replace

    def replace(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise Crash
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Crash):
            train(config)
    run = Run.of(config)
    assert not run.done
    names = {path.name for path in run.path.iterdir()}
    assert run.state == ("unfinished" if names & {LAST, BEFORE} else "started" if "config.yaml" in names else "new")
    train(config)
    same(run, whole)


def test_a_state_before_that_is_alone_is_taken_up(cut, whole, capsys):
    """What a crash between two renames leaves."""
    run = Run.of(cut)
    (run.path / LAST).unlink()
    assert run.state == "unfinished"
    train(cut)
    assert "resuming at step 2" in capsys.readouterr().out
    same(run, whole)


# Other versions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "age"), [(FORMAT + 1, "a newer"), (FORMAT - 1, "an older"), ("x", "an older")])
def test_a_state_of_another_version_is_said_to_be(cut, version, age):
    run = Run.of(cut)
    torch.save({"format": version, "step": [1]}, run.path / LAST)  # nothing else need be as we know it
    with pytest.raises(UserError, match=f"trainer.pt is of {age} version of indattn: it has format {version}") as said:
        train(cut)
    assert f"reads {FORMAT}" in str(said.value)
    assert step_of(run.path / BEFORE) == 2, "what the other version left stays"
    assert torch.load(run.path / LAST, weights_only=True)["format"] == version


@pytest.mark.parametrize(("version", "age"), [(FORMAT + 1, "a newer"), (FORMAT - 1, "an older")])
def test_a_result_of_another_version_is_said_to_be(cut, command, version, age):
    run = Run.of(cut)
    write_json(run.path / "result.json", {"format": version, "scores": {}})
    code, _, err = command("train", *TINY)
    assert code == 2
    (line,) = err.splitlines()
    assert f"result.json is of {age} version of indattn: it has format {version}, this version reads {FORMAT}" in line


def test_a_configuration_of_another_version_names_the_key(compose, command, tmp_path):
    run, _ = train(compose(*TINY))
    text = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(text.replace("model:\n", "model:\n  of_a_newer_version: 1\n", 1))
    code, _, err = command("evaluate", str(run.path))
    assert code == 2
    (line,) = err.splitlines()
    assert "model.of_a_newer_version: no such key" in line
