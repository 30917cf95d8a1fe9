"""Sweeps as jobs of a cluster: submitit's local executor, pre-emption, the launcher files, plugins that are missing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from filelock import FileLock
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
from safetensors.torch import load_file

from indattn.config import configs_dir
from indattn.errors import UserError
from indattn.runs import Run, find_runs
from indattn.training import Trainer, train

submitit = pytest.importorskip("submitit")

SIZE = ["model.layers=1", "model.width=8", "model.heads=2", "task.n=4", "training.batch_size=4", "model.dropout=0.1"]
SIZE += ["task.validation_size=8", "task.test_size=8", "figures=false", "threads=1", "device=cpu"]
TINY = [*SIZE, "training.steps=6", "training.evaluate_every=2", "training.checkpoint_every=2"]
LONG = [*SIZE, "training.steps=300", "training.evaluate_every=10", "training.checkpoint_every=25"]


# Jobs that really run ------------------------------------------------------------------------------------------


def children(parent):
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(pid) for pid, ppid in map(str.split, listed.splitlines()) if int(ppid) == parent]


def preempt(folder, number):
    """Send a job a signal once its run is in full swing; whether it is already."""
    log = folder / f"{folder.name}_0_log.out"
    found = re.search(r"^training: (\S+)", log.read_text(), re.MULTILINE) if log.exists() else None
    metrics = folder.parents[4] / found[1] / "metrics.jsonl" if found else None
    if metrics is None or not metrics.exists() or metrics.read_text().count("\n") < 4:
        return False
    (task,) = children(int(folder.name))
    os.kill(task, number)
    return True


def test_jobs_that_are_pre_empted_come_back_and_end_bit_identical(compose, tmp_path):
    """A sweep of two runs as two jobs, of which one is out of time and the other has its machine taken away."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("INDATTN_RESULTS", None)
    arguments = ["train", "-m", "seed=0,1", *LONG, "results_dir=tree", "hydra/launcher=submitit_local"]
    sweep = subprocess.Popen(
        [sys.executable, "-m", "indattn", *arguments],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    signals = [signal.SIGUSR2, signal.SIGTERM]
    sent = {}
    try:
        deadline = time.monotonic() + 240
        while len(sent) < 2:
            for folder in tmp_path.glob("tree/sweeps/*/.submitit/[0-9]*"):
                if folder not in sent and preempt(folder, signals[len(sent)]):
                    sent[folder] = signals[len(sent)]
            assert sweep.poll() is None, sweep.communicate()
            assert time.monotonic() < deadline, "no progress"
            time.sleep(0.02)
        _, err = sweep.communicate(timeout=240)
    finally:
        sweep.kill()
        sweep.wait()
    assert (sweep.returncode, err) == (0, "")
    for folder in sent:
        said, log = ((folder / f"{folder.name}_0_log.{end}").read_text() for end in ("out", "err"))
        stopped = re.search(r"^indattn: stopped at step (\d+) of 300; .*; back to the queue$", log, re.MULTILINE)
        assert f"resuming at step {stopped[1]}:" in said
    runs = find_runs(tmp_path / "tree")
    assert [run.state for run in runs] == ["done", "done"]
    whole, _ = train(compose(*LONG))
    assert whole.path.name == runs[0].path.name
    mine, theirs = load_file(runs[0].path / "model.safetensors"), load_file(whole.path / "model.safetensors")
    assert all(torch.equal(mine[key], value) for key, value in theirs.items())
    assert [line["loss"] for line in runs[0].metrics()] == [line["loss"] for line in whole.metrics()]


# Pre-emption, in this process ------------------------------------------------------------------------------------


@pytest.fixture
def in_a_job(monkeypatch):
    """This process as a job of submitit, whose handler calls what the test appends and then exits."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    calls = []

    def handler(number, frame):
        for call in calls:
            call()
        sys.exit(144)

    numbers = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGUSR2, handler)
    signal.signal(signal.SIGTERM, lambda *_: None)  # submitit lets it pass
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield calls
    for number, former in before.items():
        signal.signal(number, former)


def at_step(monkeypatch, step, number):
    real = Trainer._train_step

    def signalled(trainer):
        if trainer.step == step:
            os.kill(os.getpid(), number)
        return real(trainer)

    monkeypatch.setattr(Trainer, "_train_step", signalled)


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM], ids=lambda s: s.name)
def test_the_state_is_saved_and_the_lock_free_before_the_job_is_requeued(
    compose, monkeypatch, in_a_job, capsys, number
):
    config = compose(*TINY)
    path = Run.of(config).path
    at_step(monkeypatch, 2, number)
    seen = []
    in_a_job.append(lambda: seen.append(torch.load(path / "trainer.pt", weights_only=True)["step"]))
    in_a_job.append(lambda: FileLock(path / ".lock").acquire(timeout=0).lock.release())
    with pytest.raises(SystemExit) as stop:
        train(config)
    assert stop.value.code == 144
    assert seen == [3]
    assert "stopped at step 3 of 6" in capsys.readouterr().err


def test_a_person_s_signal_requeues_nothing(compose, monkeypatch, in_a_job):
    in_a_job.append(lambda: pytest.fail("requeued"))
    at_step(monkeypatch, 2, signal.SIGINT)
    with pytest.raises(UserError, match="stopped at step 3 of 6") as stop:
        train(compose(*TINY))
    assert stop.value.exit_code == 130


def test_a_signal_in_the_last_step_needs_no_second_turn(compose, monkeypatch, in_a_job):
    in_a_job.append(lambda: pytest.fail("requeued"))
    at_step(monkeypatch, 5, signal.SIGUSR2)
    run, result = train(compose(*TINY))
    assert run.done
    assert result is not None


def test_a_job_that_submitit_gives_up_says_so_in_a_line(command, monkeypatch, in_a_job):
    def refuse():
        raise submitit.core.utils.UncompletedJobError("Job not requeued because: timed-out too many times.")

    in_a_job.append(refuse)
    at_step(monkeypatch, 2, signal.SIGUSR2)
    code, _, err = command("train", *TINY)
    assert code == 2
    *_, line = err.splitlines()
    assert line.startswith("indattn: stopped at step 3 of 6;")
    assert line.endswith(
        "submitit did not put it back in the queue: Job not requeued because: timed-out too many times."
    )


def test_outside_of_submitit_its_signal_is_not_ours(compose, monkeypatch):
    """A child of a job inherits its environment but not its handlers."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    at_step(monkeypatch, 2, signal.SIGTERM)
    with pytest.raises(UserError, match="stopped at step 3 of 6") as stop:
        train(compose(*TINY))
    assert stop.value.exit_code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL


def test_what_a_job_said_in_its_log_is_said_again_here(command, monkeypatch):
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    code, _, err = command("train", "-m", "seed=0,1", "task.n=0", *SIZE[:3])
    assert code == 2
    assert len(err.splitlines()) == 4, "each member once in its job, whose terminal this is here, and once for us"
    assert len(set(err.splitlines())) == 1


# Launchers -------------------------------------------------------------------------------------------------------


def test_the_slurm_file_makes_the_script_it_says(monkeypatch, tmp_path):
    for name in ("srun", "sbatch"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with initialize_config_dir(str(configs_dir()), version_base="1.3"):
        overrides = ["hydra/launcher=slurm", "hydra.launcher.partition=short"]
        config = hydra_compose("train", overrides=overrides, return_hydra_config=True).hydra.launcher
    base = {"timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "stderr_to_stdout"}
    assert config["_target_"].endswith("SlurmLauncher")
    assert config.max_num_timeout == 20
    own = {"_target_", "submitit_folder", "max_num_timeout", "name"}
    values = {key: OmegaConf.to_container(config)[key] for key in config if key not in own}
    executor = submitit.AutoExecutor(folder=tmp_path, cluster="slurm", slurm_max_num_timeout=config.max_num_timeout)
    executor.update_parameters(**{key if key in base else f"slurm_{key}": value for key, value in values.items()})
    script = executor._executor._make_submission_file_text("train", "uid")
    for line in ("--partition=short", "--gpus-per-node=1", "--cpus-per-task=4", "--mem=16GB", "--time=240"):
        assert f"#SBATCH {line}\n" in script
    assert "#SBATCH --signal=USR2@120\n" in script


def test_without_slurm_the_slurm_launcher_says_so(command, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = command("train", "-m", "seed=0", *TINY, "hydra/launcher=slurm")
    assert code == 2
    (line,) = err.splitlines()
    assert "hydra/launcher" in line
    assert "SLURM" in line


@pytest.mark.parametrize(
    ("missing", "launcher", "package"),
    [
        ("submitit_slurm", "submitit_slurm", "'indattn[slurm]'"),
        ("submitit_slurm", "slurm", "'indattn[slurm]'"),
        ("submitit_local", "submitit_local", "'indattn[slurm]'"),
        ("joblib", "joblib", "hydra-joblib-launcher"),
    ],
)
def test_a_missing_launcher_names_its_package(command, monkeypatch, missing, launcher, package):
    Plugins.instance()
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], f"{missing}.yaml")
    code, _, err = command("train", "-m", "seed=0", f"hydra/launcher={launcher}")
    assert (code, err) == (2, f"indattn: hydra/launcher={missing} needs pip install {package}\n")


@pytest.mark.parametrize(("wrong", "right"), [("joblb", "joblib"), ("submitit", "submitit_"), ("slrum", "slurm")])
def test_a_misspelt_launcher_has_a_nearest_name(command, wrong, right):
    code, _, err = command("train", "-m", "seed=0", f"hydra/launcher={wrong}")
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith(f"indattn: hydra/launcher={wrong}: no such launcher; did you mean '{right}")
