"""Several processes, or several parts one after another, take the steps of one process with the whole batch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import load_file
from speeches import speech
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from indattn.build import build_misalignment, build_model, build_task
from indattn.cli import main
from indattn.config import config_hash
from indattn.distributed import every_kth_row
from indattn.errors import UserError
from indattn.runs import Run
from indattn.tasks.speech_text_alignment import SpeechTextAlignment
from indattn.training import Trainer, train

SMALL = ["model.layers=1", "model.width=8", "model.heads=2", "training.steps=6", "training.evaluate_every=2"]
SMALL += ["training.checkpoint_every=4", "figures=false", "threads=1", "device=cpu", "noise=0.5"]
#: Five rows: two processes get three and two, four parts two and three times one.
RECALL = [*SMALL, "task.n=4", "task.validation_size=8", "task.test_size=8", "training.batch_size=5"]
ALIGNMENT = [*SMALL, "task=speech_text_alignment", "training.batch_size=5", "model.ffn=8", "model.bias_hidden=4"]

SHIFTS_ALL_SCORES = ("attention.bias.second.bias", "attention.k_proj.bias", "self_attention.in_proj_bias")


@pytest.fixture(autouse=True)
def made_up_speech(monkeypatch):
    monkeypatch.setattr(SpeechTextAlignment, "speech", speech())


@pytest.fixture
def place(compose, tmp_path):
    def placed(folder, *overrides):
        config = compose(*overrides)
        config.results_dir = str(tmp_path / folder)
        return config

    return placed


def together(function, *arguments, processes=2):
    """What torchrun does, in forks of this process, which need not import everything again."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="test",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="fork",
        monitor_interval=0.1,
        max_restarts=0,
    )
    return elastic_launch(config, function)(*arguments)


def trains(config):
    """What each process does; the number of its result's test examples, none in all but the first."""
    torch.set_num_threads(1)
    _, result = train(config)
    return result and result["hardware"]["processes"]


def command(*arguments):
    sys.argv = ["indattn", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    GlobalHydra.instance().clear()
    main()


def close(one, other):
    """Assert that two runs computed the same, but for rounding."""
    a, b = one.metrics(), other.metrics()
    assert [line["step"] for line in a] == [line["step"] for line in b]
    for mine, theirs in zip(a, b, strict=True):
        for key in ("loss", "train_loss", "accuracy"):
            assert mine[key] == pytest.approx(theirs[key], rel=2e-5, abs=1e-7), (mine["step"], key)
    mine, theirs = load_file(one.path / "model.safetensors"), load_file(other.path / "model.safetensors")
    for key in mine:
        # A constant added to all scores of a row changes nothing: such parameters have rounding errors for a gradient,
        # which AdamW scales up to whole steps.
        if not key.endswith(SHIFTS_ALL_SCORES):
            torch.testing.assert_close(mine[key], theirs[key], rtol=1e-4, atol=2e-6, msg=key)
    before = load_file(one.path / "initial.safetensors")
    assert max(float((mine[key] - before[key]).abs().max()) for key in mine) > 1e-4, "it must have learned"


@pytest.mark.parametrize(
    "task", [RECALL, [*ALIGNMENT, "task.formulation=pointer"]], ids=["synthetic", "speech_text_alignment"]
)
def test_two_processes_take_the_steps_of_one(place, task):
    alone, _ = train(place("alone", *task))
    config = place("together", *task)
    assert together(trains, config) == {0: 2, 1: None}
    run = Run.of(config)
    assert run.done
    close(alone, run)
    both = place("both", *task, "training.accumulate=2")
    together(trains, both)
    close(alone, Run.of(both))


@pytest.mark.parametrize(
    "task",
    [RECALL, *([*ALIGNMENT, f"task.formulation={name}"] for name in ("centres", "pointer", "frames"))],
    ids=["synthetic", "centres", "pointer", "frames"],
)
def test_a_batch_in_four_parts_is_the_whole_batch(place, task):
    alone, _ = train(place("alone", *task))
    in_parts, _ = train(place("parts", *task, "training.accumulate=4"))
    assert alone.path.name == in_parts.path.name
    close(alone, in_parts)


@pytest.mark.parametrize("formulation", ["centres", "pointer", "frames"])
@pytest.mark.parametrize("parts", [2, 3, 6])
def test_losses_and_gradients_of_parts_add_up(compose, formulation, parts):
    """Utterances differ in tokens and frames, and some times are not known: means of means would be wrong."""
    config = compose(*ALIGNMENT, f"task.formulation={formulation}", "training.batch_size=6")
    task = build_task(config)
    torch.manual_seed(0)
    model = build_model(config, task).double()
    batch = task.training_data(build_misalignment(config, task), 6, 0).batch(0)
    batch["spans"][0] = torch.nan  # one part of it knows nothing
    assert torch.isnan(batch["spans"]).all(-1).sum(1).unique().numel() > 1, "parts must differ in what they know"
    loss = task.loss(model(batch)[0], batch)
    loss.backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    counts, total = task.counts(batch), 0.0
    for number in range(parts):
        part = every_kth_row(batch, number, parts)
        value = task.loss(model(part)[0], part, counts)
        value.backward()
        total += value.item()
    assert total == pytest.approx(loss.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        if name in whole:
            torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-5, atol=1e-7, msg=name)


def dies(config, step, rank, how):
    real = Trainer._gradients

    def gradients(trainer):
        if trainer.step == step and trainer.workers.rank == rank:
            how()
        return real(trainer)

    Trainer._gradients = gradients  # in a fork: nobody else sees it
    return trains(config)


def test_resuming_together_ends_bit_identical(place, capfd):
    undisturbed, cut = place("undisturbed", *RECALL), place("cut", *RECALL)
    together(trains, undisturbed)
    with pytest.raises(ChildFailedError):
        together(dies, cut, 5, 0, lambda: os._exit(3))
    run = Run.of(cut)
    assert run.state == "unfinished"
    capfd.readouterr()
    together(trains, cut)
    assert "resuming at step 4" in capfd.readouterr().out
    whole = Run.of(undisturbed)
    assert (run.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    assert [line["loss"] for line in run.metrics()] == [line["loss"] for line in whole.metrics()]


def dying_command(*arguments):
    def leave():
        os._exit(3)

    dies_in = {"step": 2, "rank": 1, "how": leave}
    real = Trainer._gradients

    def gradients(trainer):
        if trainer.step == dies_in["step"] and trainer.workers.rank == dies_in["rank"]:
            leave()
        return real(trainer)

    Trainer._gradients = gradients
    command(*arguments)


def test_a_process_that_ends_ends_the_others(tmp_path, capfd):
    began = time.monotonic()
    with pytest.raises(ChildFailedError):
        together(dying_command, "train", *RECALL, f"results_dir={tmp_path}")
    assert time.monotonic() - began < 60
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("indattn: ")]
    assert len(lines) <= 1, "the first process may be ended by torchrun before it has noticed"
    assert all("another process of this training has ended" in line for line in lines)
    (path,) = tmp_path.glob("runs/*/*/*/*/*")
    assert not Run(path).done


def signalled(*arguments):
    real = Trainer._gradients

    def gradients(trainer):
        if trainer.step == 2 and trainer.workers.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(trainer)

    Trainer._gradients = gradients
    command(*arguments)


def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path, capfd, place):
    with pytest.raises(ChildFailedError) as failed:
        together(signalled, "train", *RECALL, f"results_dir={tmp_path / 'stopped'}")
    assert {failure.exitcode for failure in failed.value.failures.values()} == {128 + signal.SIGTERM}
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("indattn: ")]
    assert line.startswith("indattn: stopped at step 3 of 6;")
    config = place("stopped", *RECALL)
    assert torch.load(Run.of(config).path / "trainer.pt", weights_only=True)["step"] == 3
    run, _ = train(config)  # and one process goes on with what two began
    alone, _ = train(place("alone", *RECALL))
    close(alone, run)


def test_bad_input_is_said_once(tmp_path, capfd):
    with pytest.raises(ChildFailedError) as failed:
        together(command, "train", *RECALL, "training.batch_size=1", f"results_dir={tmp_path}")
    assert {failure.exitcode for failure in failed.value.failures.values()} == {2}
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("indattn: ")]
    assert len(lines) == 1
    assert "training.batch_size=1: too few examples" in lines[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["training.accumulate=0"], "training.accumulate=0: must be at least 1"),
        (["training.accumulate=6"], "training.batch_size=5: too few examples"),
        (["training.accumulate=2", "model.dropout=0.1"], "model.dropout=0.1: it would fall differently"),
    ],
)
def test_what_cannot_be_split_is_refused(compose, overrides, words):
    with pytest.raises(UserError, match=words):
        Trainer(compose(*RECALL, *overrides))


def test_a_task_that_compares_all_pairs_cannot_be_split(compose):
    task = build_task(compose("task=cross_modal_retrieval"))
    with pytest.raises(
        UserError, match="task cross_modal_retrieval compares all pairs of a batch: its batch cannot be"
    ):
        task.counts({})


def test_parts_do_not_name_the_run(compose):
    assert config_hash(compose(*RECALL)) == config_hash(compose(*RECALL, "training.accumulate=4"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "-m", "seed=0", *RECALL], "torchrun trains one run at a time"),
        (["show"], "torchrun is for indattn train; indattn show runs in one process"),
    ],
)
def test_what_torchrun_is_not_for(monkeypatch, capsys, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    for key, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(SystemExit) as stop:
        command(*arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_the_command_under_torchrun(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("INDATTN_RESULTS", None)
    process = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "indattn"]
    arguments = ["train", *RECALL, "training.steps=2"]
    done = subprocess.run([*process, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("training: ") == 1
    assert "2 processes)" in done.stdout
    (path,) = tmp_path.glob("results/runs/*/*/*/*/*")
    assert Run(path).result()["hardware"]["processes"] == 2
