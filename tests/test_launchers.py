"""Hydra's launchers for clusters: jobs of submitit on this machine, pre-emption, many runs in one SLURM job."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from indattn.config import configs_dir
from indattn.runs import find_runs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found by ps")

SIZES = ["model.layers=1", "model.width=8", "model.heads=2", "task.n=4", "training.batch_size=4", "threads=1"]
TINY = [*SIZES, "task.validation_size=8", "task.test_size=8", "training.evaluate_every=50", "figures=false"]
LOCAL = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"]


def indattn(*arguments, cwd):
    return subprocess.Popen(
        [sys.executable, "-m", "indattn", *arguments, f"results_dir={cwd}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd,
    )  # fmt: skip


def until(condition, seconds=120):
    end = time.time() + seconds
    while not (found := condition()):
        assert time.time() < end, "it did not happen in time"
        time.sleep(0.1)
    return found


def test_a_sweep_through_submitit(tmp_path):
    sweep = indattn(
        "reproduce",
        "noise_curve",
        "model=standard",
        "noise=0,1",
        "seed=0",
        *TINY,
        "training.steps=4",
        *LOCAL,
        cwd=tmp_path,
    )
    said, error = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, error
    assert "2 to do" in said
    assert [run.state for run in find_runs(tmp_path)] == ["done", "done"]
    assert list(tmp_path.rglob("*_submitted.pkl")), "submitit must have run them"


def test_the_ready_files_for_slurm(compose):
    with initialize_config_dir(str(configs_dir()), version_base="1.3"):
        config = hydra_compose("train", ["hydra/launcher=slurm"], return_hydra_config=True)
    launcher = config.hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    assert (launcher.array_parallelism, launcher.gpus_per_node, launcher.timeout_min) == (64, 1, 240)
    assert launcher.signal_delay_s < 60 * launcher.timeout_min


@pytest.mark.parametrize("ended", ["by itself", "by SIGTERM"])
def test_the_script_that_packs_runs_into_a_job(tmp_path, ended):
    """With stand-ins for indattn and scontrol."""
    script = Path(__file__).parents[1] / "scripts" / "reproduce.sbatch"
    stand_ins = {
        "indattn": 'echo "$@" > arguments; trap "echo saved > saved; exit 143" TERM\n'
        + ("exit 3" if ended == "by itself" else "touch ready; for i in $(seq 600); do sleep 0.1; done"),
        "scontrol": 'echo "$@" > requeued',
    }
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    job = subprocess.Popen(["bash", script, "noise_curve", "seed=0"], cwd=tmp_path, env=environment)
    if ended == "by SIGTERM":
        until((tmp_path / "ready").exists, 20)
        job.terminate()
    code = job.wait(30)
    assert (tmp_path / "arguments").read_text() == "reproduce noise_curve seed=0 progress=false\n"
    assert code == (3 if ended == "by itself" else 143)
    assert (tmp_path / "requeued").exists() == (ended == "by SIGTERM")
    if ended == "by SIGTERM":
        assert (tmp_path / "saved").exists()
        assert (tmp_path / "requeued").read_text() == "requeue 17\n"
