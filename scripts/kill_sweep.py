"""Kill a sweep again and again with SIGKILL, let it finish, and compare it with one that was never disturbed.

    python scripts/kill_sweep.py --kills 200

A sweep is `indattn reproduce noise_curve` with small models. At random moments, most of them after it began to train,
all of its processes, or one and then the others, are killed, and the same command is given again. After every kill:
runs that count as done hold what the undisturbed sweep holds, to the bit; no saved state is behind what it was before.
At the end all runs are done and equal to the bit: scores, curves, weights. Prints a line a kill; exits with 1 at a
difference.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from indattn.runs import Run, find_runs

SWEEP = [
    *(
        "noise_curve",
        "model=standard,indirect",
        "noise=0.5,1",
        "task.n=6",
        "task.validation_size=40",
        "task.test_size=40",
    ),
    *("model.layers=2", "model.width=16", "model.heads=2", "training.batch_size=8", "training.evaluate_every=100"),
]
TIMES = ("seconds", "examples_per_second", "commit")
"""What may differ between two makings of a run."""


def command(tree: Path, arguments: argparse.Namespace) -> list[str]:
    """The sweep into a tree."""
    seeds = ",".join(map(str, range(arguments.runs // 4)))
    own = [
        f"seed={seeds}",
        f"training.steps={arguments.steps}",
        f"training.checkpoint_every={arguments.checkpoint_every}",
    ]
    return [
        sys.executable,
        "-m",
        "indattn.cli",
        "reproduce",
        *SWEEP,
        *own,
        f"results_dir={tree}",
        "jobs=2",
        "progress=false",
    ]


def contents(run: Run) -> dict[str, Any]:
    """Everything that a finished run left but for times."""
    result = {key: value for key, value in run.result().items() if key not in TIMES}
    curve = [{key: value for key, value in line.items() if key not in TIMES} for line in run.metrics()]
    files = {file.name: file.read_bytes() for file in run.path.glob("*.safetensors")}
    return {"result": json.dumps(result), "curve": curve, **files}


def saved_step(run: Run) -> int:
    """The step from which a run would go on."""
    if run.done:
        return sys.maxsize
    state = run.path / "trainer.pt"
    return torch.load(state, weights_only=True)["step"] if state.is_file() else 0


def check(tree: Path, reference: dict[str, dict[str, Any]], before: dict[str, int]) -> dict[str, int]:
    """The saved steps of all runs, none behind what it was, and finished ones as they should be."""
    steps = {run.key: saved_step(run) for run in find_runs(tree)}
    for key, step in before.items():
        assert steps.get(key, 0) >= step, f"{key}: saved step {steps.get(key)} is behind {step}"
    for run in find_runs(tree, state="done"):
        if before.get(run.key) != sys.maxsize:
            assert contents(run) == reference[run.key], f"{run.key} is done and differs"
    return steps


def wait_for_work(tree: Path, process: subprocess.Popen[bytes]) -> None:
    """Until a run has written into its curve since the sweep was started, or the sweep has ended."""
    began = time.time()
    while process.poll() is None and not any(file.stat().st_mtime > began for file in tree.rglob("*.jsonl")):
        time.sleep(0.05)


def processes(group: int) -> list[int]:
    """The processes of a group."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,pgid="], capture_output=True, text=True, check=True).stdout
    pairs = (tuple(map(int, line.split())) for line in listed.splitlines())
    return [pid for pid, own in pairs if own == group]


def kill(process: subprocess.Popen[bytes], chance: random.Random) -> str:
    """Kill all processes of a sweep, or one of them and then, some moments later, the rest."""
    everybody = processes(process.pid)
    one = chance.random() < 0.3 and len(everybody) > 1
    for pid in [chance.choice(everybody)] if one else everybody:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it ended since it was listed
    if one:
        time.sleep(chance.uniform(0, 2))
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return "ended by itself"
    finally:
        process.wait()
    return "one, then all" if one else "all"


def main() -> None:
    """Make the undisturbed sweep, then the disturbed one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--runs", type=int, default=24, help="of the sweep, a multiple of 4")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--checkpoint-every", type=int, default=50)
    parser.add_argument("--most", type=float, default=5.0, help="seconds before a kill, at most")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        calm = Path(folder) / "calm"
        subprocess.run(command(calm, arguments), check=True, stdout=subprocess.DEVNULL, cwd=folder)
        reference = {run.key: contents(run) for run in find_runs(calm)}
        assert len(reference) == arguments.runs
        kills = sweeps = 0
        while kills < arguments.kills:
            tree, steps = Path(folder) / f"disturbed-{sweeps}", dict[str, int]()
            while kills < arguments.kills and list(steps.values()).count(sys.maxsize) < arguments.runs:
                process = subprocess.Popen(
                    command(tree, arguments),
                    start_new_session=True,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd=folder,
                )
                if chance.random() < 0.85:
                    wait_for_work(tree, process)
                time.sleep(chance.uniform(0, arguments.most))
                how = kill(process, chance)
                kills += 1
                steps = check(tree, reference, steps)
                done = list(steps.values()).count(sys.maxsize)
                print(
                    f"kill {kills} ({how}): {done} of {arguments.runs} runs done, {len(steps) - done} at work",
                    flush=True,
                )
            subprocess.run(command(tree, arguments), check=True, stdout=subprocess.DEVNULL, cwd=folder)
            check(tree, reference, {})
            assert {run.key for run in find_runs(tree, state="done")} == reference.keys()
            sweeps += 1
        print(f"{kills} kills over {sweeps} sweeps of {arguments.runs} runs: nothing lost, all equal to the bit")


if __name__ == "__main__":
    main()
