"""What a run leaves, resuming it bit by bit, and what stops it."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from hydra import compose as compose_config
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from safetensors.torch import load_file

import indattn
from indattn.build import build_model, build_task
from indattn.cli import main
from indattn.config import TrainingConfig, config_hash, configs_dir
from indattn.errors import UserError
from indattn.runs import FORMAT, Run
from indattn.tasks.base import TrainingData
from indattn.training import Trainer, train

SIZE = ["model.layers=1", "model.width=8", "model.heads=2", "task.n=4", "training.batch_size=4"]
SIZE += ["task.validation_size=8", "task.test_size=8", "figures=false", "threads=1", "device=cpu"]
TINY = [*SIZE, "training.steps=6", "training.evaluate_every=2", "training.checkpoint_every=2"]
#: Evaluations (3, 6, 9, 10) and checkpoints (4, 8, 10) fall on different steps.
UNEVEN = [*SIZE, "training.steps=10", "training.evaluate_every=3", "training.checkpoint_every=4"]

FILES = {"config.yaml", "metrics.jsonl", "result.json", "initial.safetensors", "model.safetensors"}
FILES |= {"recording.npz", "recording_initial.npz"}
#: Fields that tell the time, not the numbers.
CLOCK = ("seconds", "examples_per_second")


class Crash(Exception):
    """Stands for anything that ends the process."""


@pytest.fixture
def place(compose, tmp_path):
    """A configuration whose results lie in a folder of their own."""

    def placed(folder, *overrides):
        config = compose(*overrides)
        config.results_dir = str(tmp_path / folder)
        return config

    return placed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that nothing disturbed, trained once for each list of overrides."""
    made = {}

    def trained(*overrides):
        if overrides not in made:
            with initialize_config_dir(str(configs_dir()), version_base="1.3"):
                config = compose_config("train", overrides=list(overrides))
            config.results_dir = str(tmp_path_factory.mktemp("whole"))
            made[overrides], _ = train(config)
        return made[overrides]

    return trained


def names(run):
    """Files of a run, temporary ones included; the lock may stay."""
    return {path.name for path in run.path.iterdir()} - {".lock"}


def without_clock(line):
    return {key: value for key, value in line.items() if key not in CLOCK}


def same_run(one, other):
    """Assert that two finished runs are equal to the last bit, the clock apart."""
    assert [without_clock(line) for line in one.metrics()] == [without_clock(line) for line in other.metrics()]
    assert without_clock(one.result()) == without_clock(other.result())
    assert names(one) == names(other)
    for name in names(one):
        if name.endswith(".safetensors"):
            assert (one.path / name).read_bytes() == (other.path / name).read_bytes(), name
        if name.endswith(".npz"):
            with np.load(one.path / name) as a, np.load(other.path / name) as b:
                assert set(a) == set(b)
                for key in a:
                    np.testing.assert_array_equal(a[key], b[key], err_msg=f"{name}: {key}")


def crash(config, step):
    """Train, and die when about to train the step after ``step``."""
    real = Trainer._train_step

    def dying(trainer):
        if trainer.step == step:
            raise Crash
        return real(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_train_step", dying)
        with pytest.raises(Crash):
            train(config)


# What a run leaves -------------------------------------------------------------------------------------------


def test_a_run_leaves_exactly_its_files(compose):
    run, result = train(compose(*TINY))
    assert names(run) == FILES
    assert result == run.result()
    assert run.state == "done"


def test_the_folder_is_named_by_what_the_run_is(compose, tmp_path):
    config = compose(*TINY, "noise=0.5", "seed=3", "model=standard")
    expected = tmp_path / "results/runs/synthetic/standard/noise-0.50/seed-3" / config_hash(config)
    assert Run.of(config).path == expected
    assert Trainer(config).run.path == expected
    assert not (tmp_path / "results").exists(), "building a trainer must not write"


def test_the_config_is_complete_and_resolved(compose):
    config = compose(*TINY, "noise=0.5", "misalignment=additive")
    run, _ = train(config)
    text = (run.path / "config.yaml").read_text()
    assert "${" not in text
    assert "???" not in text
    assert yaml.safe_load(text) == OmegaConf.to_container(config, resolve=True)
    assert yaml.safe_load(text)["misalignment"]["width"] == 8
    assert Run.of(run.config()).path == run.path, "the stored configuration must give the same run"


def test_metrics_have_a_line_at_each_evaluation(compose):
    run, _ = train(compose(*UNEVEN))
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 3, 6, 9, 10]
    keys = {"step", "seconds", "split", "loss", "accuracy", "exact", "train_loss"}
    assert all(set(line) == keys for line in lines)
    assert {line["split"] for line in lines} == {"validation"}
    assert all(0 <= line["exact"] <= line["accuracy"] <= 1 for line in lines)
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)


def test_the_train_loss_is_the_mean_since_the_last_line(compose, monkeypatch):
    losses = []
    real = Trainer._train_step
    monkeypatch.setattr(Trainer, "_train_step", lambda trainer: (losses.append(real(trainer)), losses[-1])[1])
    run, _ = train(compose(*UNEVEN))
    means = [np.mean(losses[:3]), np.mean(losses[3:6]), np.mean(losses[6:9]), losses[9]]
    assert [line["train_loss"] for line in run.metrics()[1:]] == pytest.approx(means)


def test_the_result_has_what_a_reader_needs(compose):
    config = compose(*TINY, "noise=0.5", "seed=2")
    run, _ = train(config)
    result = json.loads((run.path / "result.json").read_text())
    assert result["format"] == FORMAT
    assert {"task": "synthetic", "model": "indirect", "seed": 2, "noise": 0.5}.items() <= result.items()
    assert result["hash"] == run.path.name
    assert result["kind"] == "shift"
    assert result["steps"] == 6
    assert result["parameters"] == sum(p.numel() for p in build_model(config, build_task(config)).parameters())
    assert result["flops_per_step"] > result["parameters"]
    assert result["seconds"] > 0
    assert result["examples_per_second"] == pytest.approx(6 * 4 / result["seconds"], rel=0.05)
    assert result["versions"]["indattn"] == indattn.__version__
    assert result["versions"]["torch"] == torch.__version__
    assert result["versions"]["python"].count(".") == 2
    assert "commit" in result
    assert {"device", "machine", "system", "cores", "threads"} <= set(result["hardware"])
    assert result["hardware"]["device"] == "cpu"
    assert result["hardware"]["threads"] == torch.get_num_threads()
    for split in ("test", "validation"):
        assert set(result[split]) == {"loss", "accuracy", "exact"}
    last = run.metrics()[-1]
    assert result["validation"] == {key: last[key] for key in ("loss", "accuracy", "exact")}
    assert 0 < result["chance"] < result["ceiling"] == 1


def test_per_example_counts_agree_with_the_scores(compose):
    _, result = train(compose(*TINY, "task.test_size=30", "task.values=2"))
    right, outputs = np.array(result["per_example"]), 4
    assert len(right) == 30
    assert right.min() >= 0
    assert right.max() <= outputs
    assert right.sum() > 0
    assert result["test"]["accuracy"] == pytest.approx(right.mean() / outputs)
    assert result["test"]["exact"] == pytest.approx((right == outputs).mean())


def test_the_result_gives_the_noise_of_the_run_not_of_its_folder(compose):
    _, result = train(compose(*TINY, "noise=0.125"))
    assert result["noise"] == 0.125


def test_steps_to_a_target_are_the_first_that_reach_it(compose, monkeypatch):
    accuracies = iter([0.0, 0.5, 0.95, 0.7])
    real = Trainer._evaluate

    def fake(trainer, validation):
        real(trainer, validation)
        file = trainer.run.path / "metrics.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        lines[-1]["accuracy"] = next(accuracies)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return lines[-1]["accuracy"]

    monkeypatch.setattr(Trainer, "_evaluate", fake)
    _, result = train(compose(*TINY))
    assert result["steps_to_0.9"] == 4


def test_initial_weights_are_those_before_training(compose):
    config = compose(*TINY)
    fresh = Trainer(config).model.state_dict()
    run, _ = train(config)
    initial, final = load_file(run.path / "initial.safetensors"), load_file(run.path / "model.safetensors")
    assert set(initial) == set(fresh)
    assert all(torch.equal(initial[key], fresh[key]) for key in fresh)
    assert any(not torch.equal(final[key], fresh[key]) for key in fresh)


def test_keep_checkpoints_keeps_the_weights_of_those_steps(compose):
    run, _ = train(compose(*TINY, "training.keep_checkpoints=[0,3,6]"))
    assert names(run) == FILES | {"step-0.safetensors", "step-3.safetensors", "step-6.safetensors"}
    content = {name: (run.path / f"{name}.safetensors").read_bytes() for name in ("step-0", "step-3", "step-6")}
    assert content["step-0"] == (run.path / "initial.safetensors").read_bytes()
    assert content["step-6"] == (run.path / "model.safetensors").read_bytes()
    assert len(set(content.values())) == 3


def test_recordings_need_no_pickle_and_no_weights(compose):
    run, _ = train(compose(*TINY, "task.test_size=6"))
    content = 2 * 4 + 1  # n values, a start mark, as much filler
    for name in ("recording", "recording_initial"):
        with np.load(run.path / f"{name}.npz", allow_pickle=False) as recorded:
            assert recorded["attention"].shape == (1, 4, 2, content, content)
            assert recorded["sharpness"].shape == (1, 2)
            assert recorded["bias_function"].shape == (1, 2, 2 * content - 1)
            assert recorded["offsets"].tolist() == list(range(1 - content, content))
            assert all(np.isfinite(recorded[key]).all() for key in recorded)
    with np.load(run.path / "recording.npz") as after, np.load(run.path / "recording_initial.npz") as before:
        assert not np.array_equal(after["bias_function"], before["bias_function"])


@pytest.mark.parametrize("task", ["sorting", "sequence_retrieval"])
def test_the_paper_tasks_train_too(compose, task):
    overrides = [o for o in TINY if not o.startswith("task.n=")]
    run, result = train(compose(f"task={task}", *overrides, "task.train_size=8", "noise=0.5"))
    assert names(run) == FILES
    assert result["kind"] == "corrupt"


def test_the_test_split_is_read_once_at_the_end(compose, monkeypatch):
    from indattn.tasks.synthetic import Synthetic

    read = []
    real = Synthetic.split

    def split(task, name, *arguments):
        read.append(name)
        return real(task, name, *arguments)

    monkeypatch.setattr(Synthetic, "split", split)
    train(compose(*TINY))
    assert read.count("test") == 1
    assert read[-1] == "test"


def test_schedule():
    settings = TrainingConfig(steps=100, lr=1.0, warmup_steps=10, decay_fraction=0.2)
    rates = [settings.learning_rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:81] == pytest.approx([1.0] * 72)
    assert rates[99] == pytest.approx(0.05)
    assert rates[80:] == sorted(rates[80:], reverse=True)
    flat = TrainingConfig(steps=5, lr=1.0, warmup_steps=0, decay_fraction=0)
    assert [flat.learning_rate(step) for step in range(5)] == [1.0] * 5


def test_a_fixed_sample_is_seen_whole_in_every_epoch_in_another_order(compose):
    config = compose(*TINY, "task.train_size=12")
    data = Trainer(config).data
    epochs = [torch.cat([data.batch(3 * epoch + k)["content"] for k in range(3)]) for epoch in range(3)]
    rows = [sorted(map(tuple, epoch.tolist())) for epoch in epochs]
    assert rows[0] == rows[1] == rows[2] == sorted(map(tuple, data.fixed["content"].tolist()))
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(data.batch(1)["content"], epochs[0][4:8]), "a batch depends on its step alone"


def test_fresh_batches_depend_on_seed_and_step_alone(compose):
    config = compose(*TINY)
    one, two, other = Trainer(config).data, Trainer(config).data, Trainer(compose(*TINY, "seed=1")).data
    assert isinstance(one, TrainingData)
    two.batch(0)
    assert torch.equal(one.batch(5)["content"], two.batch(5)["content"])
    assert not torch.equal(one.batch(5)["content"], one.batch(6)["content"])
    assert not torch.equal(one.batch(5)["content"], other.batch(5)["content"])


# Again -------------------------------------------------------------------------------------------------------


def test_the_same_command_again_says_done_and_trains_nothing(command, tmp_path, monkeypatch):
    code, out, err = command("train", *TINY)
    assert (code, err) == (0, "")
    (model,) = (tmp_path / "results").glob("runs/**/model.safetensors")
    before = {path: path.stat().st_mtime_ns for path in model.parent.iterdir()}
    monkeypatch.setattr(Trainer, "_train_step", lambda trainer: pytest.fail("trained again"))
    code, out, err = command("train", *TINY)
    assert (code, err) == (0, "")
    assert "done" in out
    assert str(model.parent.relative_to(tmp_path)) in out
    assert {path: path.stat().st_mtime_ns for path in model.parent.iterdir()} == before


def test_force_trains_again_to_the_same_bytes(compose, place):
    config = compose(*TINY)
    run, _ = train(config)
    (run.path / "evaluations").mkdir()
    (run.path / "evaluations" / "shift.json").write_text("{}")
    (run.path / "step-1.safetensors").write_text("of another time")
    before = (run.path / "model.safetensors").stat().st_mtime_ns
    config.force = True
    again, result = train(config)
    assert again == run
    assert (run.path / "model.safetensors").stat().st_mtime_ns > before
    assert names(run) == FILES, "what belonged to the old training must go"
    fresh, other = train(place("fresh", *TINY))
    assert without_clock(result) == without_clock(other)
    assert (run.path / "model.safetensors").read_bytes() == (fresh.path / "model.safetensors").read_bytes()


def test_force_takes_up_no_old_state(compose, monkeypatch):
    config = compose(*TINY)
    crash(config, 5)
    assert Run.of(config).state == "unfinished"
    steps = []
    real = Trainer._train_step
    monkeypatch.setattr(Trainer, "_train_step", lambda trainer: (steps.append(trainer.step), real(trainer))[1])
    config.force = True
    train(config)
    assert steps == list(range(6))


def test_checkpoints_asked_for_later_are_named_as_missing(compose, capsys):
    train(compose(*TINY))
    train(compose(*TINY, "training.keep_checkpoints=[3]"))
    assert "[3]" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    "override",
    [
        "task.n=5",
        "task.values=8",
        "task.train_size=8",
        "task.test_size=9",
        "model=standard",
        "model.width=16",
        "model.dropout=0.1",
        "model.match_parameters=false",
        "misalignment=shuffle",
        "noise=0.5",
        "noise=0.001",
        "seed=1",
        "training.steps=7",
        "training.lr=0.0123",
        "training.batch_size=5",
        "training.evaluate_every=3",
        "training.precision=bf16",
    ],
)
def test_what_changes_the_numbers_changes_the_folder(compose, override):
    assert Run.of(compose(*TINY)).path != Run.of(compose(*TINY, override)).path
    assert config_hash(compose(*TINY)) != config_hash(compose(*TINY, override))


@pytest.mark.parametrize(
    "override",
    [
        "noise=0",
        "device=auto",
        "threads=2",
        "threads=auto",
        "progress=true",
        "force=true",
        "figures=true",
        "training.checkpoint_every=3",
        "training.keep_checkpoints=[0,2]",
    ],
)
def test_what_does_not_change_the_numbers_does_not_change_the_folder(compose, override):
    assert Run.of(compose(*TINY)).path == Run.of(compose(*TINY, override)).path


def test_results_dir_moves_the_folder_and_keeps_its_name(place):
    one, other = Run.of(place("a", *TINY)).path, Run.of(place("b", *TINY)).path
    assert one.parts[-6:] == other.parts[-6:]


# Determinism and resuming --------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [[], ["model.dropout=0.3"], ["task.train_size=8"], ["model=cross", "noise=0.5"]])
def test_the_same_run_twice_is_the_same(place, extra):
    one, _ = train(place("a", *TINY, *extra))
    torch.manual_seed(987)  # what happened in the process before must not matter
    torch.rand(5)
    other, _ = train(place("b", *TINY, *extra))
    same_run(one, other)


def test_another_seed_is_another_run(place):
    one, first = train(place("a", *TINY))
    other, second = train(place("a", *TINY, "seed=1"))
    assert (one.path / "initial.safetensors").read_bytes() != (other.path / "initial.safetensors").read_bytes()
    assert first["test"]["loss"] != second["test"]["loss"]


def test_checkpoints_and_evaluations_do_not_change_the_training(place):
    one, _ = train(place("a", *UNEVEN, "model.dropout=0.3"))
    more = ["training.evaluate_every=1", "training.checkpoint_every=1", "training.keep_checkpoints=[0,1,5]"]
    other, _ = train(place("b", *UNEVEN, "model.dropout=0.3", *more))
    assert (one.path / "model.safetensors").read_bytes() == (other.path / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("extra", "steps"),
    # Evaluations fall on 3, 6, 9 and states on 4, 8: right after, right before, and between.
    [([], [0, 3, 4, 6, 7, 8, 9]), (["model.dropout=0.3", "task.train_size=12"], [3, 5, 8])],
    ids=["plain", "dropout-sample"],
)
def test_resuming_after_any_step_ends_bit_identical(whole, place, capsys, extra, steps):
    undisturbed = whole(*UNEVEN, *extra)
    for step in steps:
        config = place(f"cut-{step}", *UNEVEN, *extra)
        crash(config, step)
        run = Run.of(config)
        assert not run.done
        saved = step // 4 * 4
        assert run.state == ("unfinished" if saved else "started")
        capsys.readouterr()
        torch.manual_seed(step)
        train(config)
        assert (f"resuming at step {saved}" in capsys.readouterr().out) == bool(saved)
        same_run(undisturbed, run)


@pytest.mark.parametrize("extra", ["model.dropout=0.3", "task.train_size=8", "model=fusion", "training.precision=bf16"])
def test_resuming_twice_ends_bit_identical(whole, place, extra):
    undisturbed = whole(*UNEVEN, extra)
    config = place("cut", *UNEVEN, extra)
    for step in (5, 9):
        crash(config, step)
    train(config)
    same_run(undisturbed, Run.of(config))


def test_a_checkpoint_every_of_its_own_resumes_the_same_run(whole, place):
    undisturbed = whole(*UNEVEN)
    config = place("cut", *UNEVEN, "training.checkpoint_every=1")
    crash(config, 7)
    run, _ = train(place("cut", *UNEVEN, "training.checkpoint_every=100"))
    same_run(undisturbed, run)


@pytest.mark.parametrize("method", ["_save_state", "finish", "_flops"])
def test_dying_while_saving_ends_bit_identical(whole, place, monkeypatch, method):
    undisturbed = whole(*UNEVEN)
    config = place("cut", *UNEVEN)

    def die(trainer):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, method, die)
        with pytest.raises(Crash):
            train(config)
    run = Run.of(config)
    assert not run.done
    train(config)
    same_run(undisturbed, run)


def test_a_metrics_line_cut_short_is_written_again(whole, place):
    undisturbed = whole(*UNEVEN)
    config = place("cut", *UNEVEN)
    crash(config, 5)
    with open(Run.of(config).path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "sec')
    train(config)
    same_run(undisturbed, Run.of(config))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
@pytest.mark.parametrize("step", [3, 4])
def test_a_signal_stops_after_the_step_and_resumes_bit_identical(
    whole, place, command, monkeypatch, tmp_path, number, step
):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    undisturbed = whole(*UNEVEN)
    real = Trainer._train_step

    def signalled(trainer):
        if trainer.step == step:
            os.kill(os.getpid(), number)
        return real(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", signalled)
        code, _, err = command("train", *UNEVEN)
    assert code == 128 + number
    (line,) = err.splitlines()
    assert line.startswith(f"indattn: stopped at step {step + 1} of 10;")
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    code, out, err = command("train", *UNEVEN)
    assert (code, err) == (0, "")
    assert f"resuming at step {step + 1}:" in out
    (path,) = tmp_path.glob("results/runs/*/*/*/*/*")
    same_run(undisturbed, Run(path))


def test_a_second_signal_ends_it_at_once(compose, monkeypatch):
    def twice(trainer):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second signal must not wait for the step")

    monkeypatch.setattr(Trainer, "_train_step", twice)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored when the tests run in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            train(compose(*TINY))
    finally:
        signal.signal(signal.SIGINT, before)


LONG = [*SIZE, "training.steps=300", "training.evaluate_every=10", "training.checkpoint_every=25", "model.dropout=0.1"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The long run, trained from start to end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["indattn", "train", *LONG, f"results_dir={folder}"])
        patch.setenv("HYDRA_FULL_ERROR", "1")
        with pytest.raises(SystemExit) as stop:
            main()
        GlobalHydra.instance().clear()
    assert not stop.value.code
    (path,) = folder.glob("runs/*/*/*/*/*")
    return Run(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_a_stopped_process_resumes_bit_identical(command, tmp_path, undisturbed, number):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("INDATTN_RESULTS", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "indattn.cli", "train", *LONG],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not any(path.read_text().count("\n") > 3 for path in tmp_path.glob("results/runs/**/metrics.jsonl")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "no progress"
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    (path,) = tmp_path.glob("results/runs/*/*/*/*/*")
    run = Run(path)
    assert run.state == "unfinished", "it must be stopped in the middle"
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number
        (line,) = err.splitlines()
        assert line.startswith("indattn: stopped at step ")
        step = int(line.split()[4])
        assert 30 <= step < 300
        assert str(path.relative_to(tmp_path)) in line
        assert torch.load(path / "trainer.pt", weights_only=True)["step"] == step
    code, out, err = command("train", *LONG)
    assert (code, err) == (0, "")
    assert "resuming at step" in out
    assert path.name == undisturbed.path.name
    same_run(undisturbed, run)


# What stops a run ----------------------------------------------------------------------------------------------


def test_a_run_that_another_process_trains_is_left_to_it(compose, command, capsys):
    config = compose(*TINY)
    run = Run.of(config)
    run.path.mkdir(parents=True)
    with FileLock(run.path / ".lock"):
        assert train(config) == (run, None)
        assert "another process" in capsys.readouterr().out
        code, out, err = command("train", *TINY)
        assert (code, err) == (0, "")
        assert "another process" in out
        assert str(run.path.name) in out
        assert names(run) == set()
    assert train(config)[1] is not None, "the lock must be free again"


def test_a_done_run_needs_no_lock(compose, capsys):
    config = compose(*TINY)
    run, result = train(config)
    with FileLock(run.path / ".lock"):
        assert train(config) == (run, result)


def test_the_lock_is_free_after_a_failure(compose):
    config = compose(*TINY)
    crash(config, 3)
    with FileLock(Run.of(config).path / ".lock", timeout=0):
        pass


#: Syncs of the tiny run, two for each atomic write: config, initial weights and recording, three states, recording,
#: weights, result; four lines of the curve. After the last, of the folder with the result, it is done.
SYNCS = 2 * 9 + 4


@pytest.mark.parametrize("call", range(1, SYNCS))
def test_a_disk_that_fills_up_at_any_write_loses_nothing(whole, place, monkeypatch, call):
    undisturbed = whole(*TINY)
    config = place("full", *TINY)
    calls = []
    real = os.fsync

    def full(handle):
        calls.append(handle)
        if len(calls) >= call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left"):
            train(config)
    run = Run.of(config)
    assert not any(name.startswith(".") for name in names(run))
    assert not run.done
    train(config)
    same_run(undisturbed, run)


def test_a_file_size_limit_is_a_full_disk(compose, command, tmp_path):
    """A real failing write: the limit lets everything through but the state to resume from."""
    limit = 40_000
    code = (
        f"import resource, sys; from indattn.cli import main; import indattn.training\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {resource.RLIM_INFINITY}))\n"
        f"main()"
    )
    arguments = ["train", *TINY, "training.steps=4", "model.bias_hidden=256"]
    environment = {k: v for k, v in os.environ.items() if k != "INDATTN_RESULTS"}
    process = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(process, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    (line,) = done.stderr.splitlines()
    assert line.startswith("indattn: cannot write ")
    assert "trainer.pt" in line
    assert done.returncode == 2
    (path,) = tmp_path.glob("results/runs/*/*/*/*/*")
    assert names(Run(path)) == {"config.yaml", "initial.safetensors", "metrics.jsonl", "recording_initial.npz"}
    code, _, err = command(*arguments)
    assert (code, err) == (0, "")
    assert names(Run(path)) == FILES


NAN = ["training.lr=1e30", "training.grad_clip=1e30", "training.warmup_steps=0", "training.checkpoint_every=1"]


def test_a_loss_that_is_not_a_number_stops_the_run(command, tmp_path):
    for _ in range(2):  # the second time it resumes, and finds the same
        code, _, err = command("train", *TINY, *NAN)
        assert code == 2
        (line,) = err.splitlines()
        assert line.startswith("indattn: the loss is nan at step 2 ")
        (path,) = tmp_path.glob("results/runs/*/*/*/*/*")
        assert names(Run(path)) == FILES - {"result.json", "model.safetensors", "recording.npz"} | {"trainer.pt"}
        assert torch.load(path / "trainer.pt", weights_only=True)["step"] == 1


def test_weights_that_are_not_numbers_after_the_last_step_are_no_result(compose):
    config = compose(*TINY, *NAN, "training.steps=1")
    with pytest.raises(UserError, match="step 1"):
        train(config)
    assert not Run.of(config).done


def test_a_model_that_breaks_in_an_evaluation_stops_there(compose, monkeypatch):
    """The loss of a step is that of the weights before it: the last step's weights are seen by no loss."""
    real = Trainer._train_step

    def break_last(trainer):
        loss = real(trainer)
        if trainer.step == 5:
            torch.nn.init.constant_(trainer.model.head.bias, float("nan"))
        return loss

    monkeypatch.setattr(Trainer, "_train_step", break_last)
    config = compose(*TINY)
    with pytest.raises(UserError, match="step 6"):
        train(config)
    assert not Run.of(config).done


class Payload:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["pickle", "torch", "legacy"])
def test_a_state_that_is_a_program_does_not_run(compose, command, tmp_path, how):
    config = compose(*TINY)
    path = Run.of(config).path
    path.mkdir(parents=True)
    marker, state = tmp_path / "marker", {"format": FORMAT, "step": Payload(tmp_path / "marker")}
    if how == "pickle":
        (path / "trainer.pt").write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path / "trainer.pt", _use_new_zipfile_serialization=how == "torch")
    code, _, err = command("train", *TINY)
    assert not marker.exists()
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("indattn: ")
    assert "trainer.pt" in line
    assert "force=true" in line
    pickle.loads(pickle.dumps(state))
    assert marker.exists(), "the payload of this test must work"


@pytest.mark.parametrize("damage", ["empty", "truncated", "rubbish", "list", "other model", "other format"])
def test_a_damaged_state_is_one_line_and_force_starts_anew(whole, compose, command, place, damage):
    config = compose(*TINY)
    crash(config, 3)
    file = Run.of(config).path / "trainer.pt"
    state = torch.load(file, weights_only=True)
    content = file.read_bytes()
    if damage == "empty":
        file.write_bytes(b"")
    elif damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "rubbish":
        file.write_bytes(bytes(range(256)) * 8)
    elif damage == "list":
        torch.save([1, 2], file)
    elif damage == "other model":
        torch.save({**state, "model": {"x": torch.zeros(2)}}, file)
    else:
        torch.save({**state, "format": FORMAT + 1}, file)
    code, _, err = command("train", *TINY)
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("indattn: ")
    assert "trainer.pt" in line
    assert "force=true" in line
    assert command("train", *TINY, "force=true")[0] == 0
    undisturbed = whole(*TINY)
    same_run(undisturbed, Run.of(config))
