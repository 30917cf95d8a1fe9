"""Experiments as plans, and `indattn reproduce`: what is there, what is missing, failures, signals, two at once."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from indattn.config import config_hash, configs_dir
from indattn.errors import UserError
from indattn.plans import Plan, Timings, experiments, load_all, load_experiment
from indattn.runs import find_runs
from indattn.search_path import register
from indattn.store import load_records

SIZES = ["model.layers=1", "model.width=8", "model.heads=2", "task.n=4", "training.batch_size=4"]
TINY = [*SIZES, "training.steps=6", "training.evaluate_every=3", "task.validation_size=8", "task.test_size=8"]
SMALL = ["noise_curve", "model=indirect,standard", "noise=0,1", *TINY]
HERE = "hydra/launcher=basic"
STANDARD = ("figure1", "figure2", "figure3", "two_orders", "noise_curve", "cross_modal", "alignment", "costs")


@pytest.fixture
def load(tmp_path):
    def load(name, profile="full", *overrides):
        with initialize_config_dir(str(configs_dir()), version_base="1.3"):
            return load_experiment(name, profile, [f"results_dir={tmp_path}", *overrides])

    return load


# Plans -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_is_a_plan_whose_runs_are_those_of_train(name, load, compose):
    experiment = load(name)
    runs = [member.run for member in experiment.members]
    assert len(set(runs)) == len(runs)
    assert bool(runs) == experiment.plan.runs
    for member in experiment.members[:: max(1, len(runs) // 3)]:
        config = compose(*member.overrides)
        assert config_hash(config) == member.run.path.name
        assert member.steps == config.training.steps
        assert list(member.keeps) == config.training.keep_checkpoints
    if runs:
        quick = load(name, "quick").members
        assert 0 < sum(m.steps for m in quick) < sum(m.steps for m in experiment.members) / 3
    if experiment.plan.standard:
        standard = {member.run for member in load(name, "standard").members}
        assert standard
        assert standard <= set(runs)  # they share a results tree
    assert ("standard" in experiment.plan.in_all) == (name in STANDARD)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Loads an experiment of one's own, by its plan and its axes."""

    def load(plan, axes, profile="full", *overrides):
        (tmp_path / "experiment").mkdir(exist_ok=True)
        text = {"plan": plan, "hydra": {"sweeper": {"params": axes}}}
        (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{json.dumps(text)}\n")
        monkeypatch.setattr("indattn.trees._given", [tmp_path])
        register()
        with initialize_config_dir(str(configs_dir()), version_base="1.3"):
            return load_experiment("mine", profile, ["results_dir=results", *overrides])

    return load


SWEEPS = [{}, {"model": "standard,indirect"}, {"model.shared_bias": "true", "seed": "0"}]


def test_sweeps_are_laid_over_the_axes_and_each_run_is_made_once(own):
    plan, axes = {"sweeps": SWEEPS, "quick": {"seed": 1}}, {"seed": "0,1", "noise": 0.5}
    members = own(plan, axes).members
    assert [dict(member.axes) for member in members] == [
        {"seed": "0", "noise": "0.5"},
        {"seed": "1", "noise": "0.5"},
        {"seed": "0", "noise": "0.5", "model": "standard"},
        {"seed": "1", "noise": "0.5", "model": "standard"},
        {"seed": "0", "noise": "0.5", "model.shared_bias": "true"},
    ]
    assert len({member.run for member in members}) == 5
    assert [m.axes["seed"] for m in own(plan, axes, "quick").members] == ["1"] * 3  # of all sweeps
    assert len(own(plan, axes, "standard").members) == 5
    narrower = own({**plan, "standard": {"seed": "0"}}, axes, "standard", "noise=0.50,1", "training.lr=0.0010").members
    assert {(m.axes["noise"], m.axes["training.lr"]) for m in narrower} == {("0.5", "0.001"), ("1", "0.001")}
    assert len(narrower) == 6


def test_experiments_of_all_by_profile(own, monkeypatch):
    monkeypatch.setattr("indattn.plans.experiments", lambda: ["mine"])
    axes = {"seed": "0,1"}

    def of(profile):
        with initialize_config_dir(str(configs_dir()), version_base="1.3"):
            return {e.name for e in load_all(profile, ["results_dir=results"])}

    own({"in_all": ["full"]}, axes)
    assert of("full") == {"mine"}
    assert of("standard") == set()
    own({}, axes)  # without a smaller sweep it is in all that need none
    assert of("standard") == {"mine"}
    assert of("quick") == set()
    with pytest.raises(UserError, match=r"in_all has 'fast': must be of standard, full, quick"):
        own({"in_all": ["fast"]}, axes)


def test_overrides_take_the_place_of_axes(load):
    members = load("noise_curve", "full", "seed=7", "noise=0,0.5", "model=cross").members
    assert sorted((m.run.labels["noise"], m.run.labels["seed"]) for m in members) == [(0.0, 7), (0.5, 7)]


@pytest.mark.parametrize(
    ("overrides", "said"), [(["noise=2"], "noise=2"), (["seed=-1"], "seed=-1"), (["seed=x"], "seed=x")]
)
def test_values_that_no_run_can_have(load, overrides, said):
    with pytest.raises(UserError, match=said):
        load("noise_curve", "full", *overrides)


def test_a_run_in_two_experiments_is_made_once_with_all_weights(load, tmp_path):
    plain, keeping = load("noise_curve"), load("theory_training")
    plan = Plan([plain, keeping], False, Timings(tmp_path))
    assert {m.run for m in keeping.members} < {m.run for m in plain.members}
    assert len(plan.missing) == len(plain.members)
    assert sum(bool(member.keeps) for member in plan.missing) == len(keeping.members)


def test_an_experiment_without_a_smaller_sweep_says_so(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nhydra: {sweeper: {params: {seed: '0,1'}}}\n"
    )
    command = [sys.executable, "-m", "indattn", "reproduce", "mine", "--config-dir", str(tmp_path), "--dry-run"]
    full = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "2 runs: 0 there, 2 to do" in full.stdout
    quick = subprocess.run([*command, "--profile", "quick"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (quick.returncode, quick.stderr.count("\n")) == (2, 1)
    assert "experiment mine has no profile quick" in quick.stderr


# The verb ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """A tree in which a small sweep was reproduced by parallel processes, and what the command said."""
    tree = tmp_path_factory.mktemp("tree")
    command = [sys.executable, "-m", "indattn.cli", "reproduce", *SMALL, "seed=0,1", "jobs=2", f"results_dir={tree}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tree)
    assert done.returncode == 0, done.stderr
    return tree, done.stdout


def test_it_makes_what_is_missing_and_ends_with_tables_and_figures(reproduced):
    tree, said = reproduced
    assert "8 runs: 0 there, 8 to do, how long is not known" in said
    assert [run.state for run in find_runs(tree)] == ["done"] * 8
    assert len(load_records(tree)) == 8
    assert (tree / "figures" / "noise-synthetic.png").is_file()
    assert {run.result()["hardware"]["threads"] for run in find_runs(tree)} == {1}


def test_a_second_time_nothing_is_made(reproduced, command):
    tree, _ = reproduced
    before = {file: file.stat().st_mtime_ns for file in tree.rglob("result.json")}
    code, said, _ = command("reproduce", *SMALL, "seed=0,1", f"results_dir={tree}", "--dry-run")
    assert (code, said.strip()) == (0, "noise_curve  8 runs: 8 there, 0 to do")
    code, said, _ = command("reproduce", *SMALL, "seed=0,1,2", f"results_dir={tree}", "--dry-run")
    assert code == 0
    assert "12 runs: 8 there, 4 to do, about " in said
    assert {file: file.stat().st_mtime_ns for file in tree.rglob("result.json")} == before


def without_times(output):
    """A file without the last column, ``seconds``, of its tables that have one; others as they are."""
    if output.split(b"\n", 1)[0].strip().endswith(b",seconds"):
        return re.sub(rb",[\d.]+$", b"", output, flags=re.MULTILINE)

    def without_last(table):
        return re.sub(rb"<td[^>]*>[\d.]+</td></tr>$", b"</tr>", table[0], flags=re.MULTILINE)

    return re.sub(rb">seconds</button></th>\s*</tr></thead>.*?</tbody>", without_last, output, flags=re.DOTALL)


def test_a_deleted_run_is_made_again_alone_and_the_outputs_are_the_same(reproduced, command, tmp_path):
    """The run's folder and its line in the record are gone; all comes back to the byte, but for seconds of training."""
    tree, _ = reproduced
    for part in ("runs", "records"):
        shutil.copytree(tree / part, tmp_path / part)
    arguments = ["reproduce", *SMALL, "seed=0,1", f"results_dir={tmp_path}", HERE]

    def outputs():
        code, said, error = command(*arguments)
        assert code == 0, error
        code, _, error = command("report", f"results_dir={tmp_path}")
        assert code == 0, error
        files = [file for part in ("report", "tables", "figures") for file in (tmp_path / part).rglob("*.*")]
        return said, {file: file.read_bytes() for file in [tmp_path / "ledger.json", *files]}

    said, before = outputs()
    assert "8 there, 0 to do" in said
    lost = find_runs(tmp_path)[3]
    key = lost.result()["hash"]
    shutil.rmtree(lost.path)
    record = tmp_path / "records" / "synthetic.jsonl.gz"
    lines = [line for line in gzip.decompress(record.read_bytes()).splitlines(True) if json.loads(line)["hash"] != key]
    assert len(lines) == 7
    record.write_bytes(gzip.compress(b"".join(lines)))
    others = {run: (run.path / "result.json").stat().st_mtime_ns for run in find_runs(tmp_path)}
    said, after = outputs()
    assert "7 there, 1 to do" in said
    assert {run: (run.path / "result.json").stat().st_mtime_ns for run in others} == others
    assert after.keys() == before.keys()
    differ = [str(file) for file in before if without_times(before[file]) != without_times(after[file])]
    assert differ == []


def test_recorded_runs_count_and_are_drawn_without_their_folders(reproduced, command, tmp_path):
    tree, _ = reproduced
    shutil.copytree(tree / "records", tmp_path / "records")
    code, said, _ = command("reproduce", *SMALL, "seed=0,1", f"results_dir={tmp_path}")
    assert code == 0
    assert "8 there (8 in the record alone), 0 to do" in said
    for name in ("noise-synthetic.csv", "noise-synthetic-paired.csv", "noise-synthetic-curves.csv"):
        assert (tmp_path / "tables" / name).read_bytes() == (tree / "tables" / name).read_bytes()
    assert not (tmp_path / "runs").exists()


def test_evaluations_that_a_plan_asks_for_are_made_once_and_recorded(command, tmp_path):
    (tmp_path / "experiment").mkdir()
    plan = {"evaluate": {"kind": ["shuffle"], "noise": [0.25, 1]}}
    text = {"plan": plan, "hydra": {"sweeper": {"params": {"seed": "0"}}}}
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{json.dumps(text)}\n")
    arguments = ["reproduce", "mine", *TINY, f"results_dir={tmp_path}", HERE, "--config-dir", str(tmp_path)]
    code, said, _ = command(*arguments)
    assert (code, said.count("indattn evaluate")) == (0, 1)
    [record] = load_records(tmp_path).values()
    assert [(e["kind"], e["noise"]) for e in record["evaluations"]] == [("shuffle", 0.25), ("shuffle", 1)]
    code, said, _ = command(*arguments)
    assert (code, said.count("indattn evaluate")) == (0, 0)
    assert ": 1 runs, 0 of them new or changed" in said


def test_runs_of_other_code_are_shown_and_made_again_when_asked(reproduced, command, tmp_path):
    tree, _ = reproduced
    shutil.copytree(tree / "runs", tmp_path / "runs")
    one = find_runs(tmp_path)[0]
    result = one.result()
    (one.path / "result.json").write_text(json.dumps({**result, "code": "00000000"}))
    arguments = ["reproduce", *SMALL, "seed=0,1", f"results_dir={tmp_path}"]
    code, said, _ = command(*arguments, "--dry-run")
    assert (code, "8 there (1 made by other code), 0 to do" in said) == (0, True)
    others = {run: (run.path / "result.json").stat().st_mtime_ns for run in find_runs(tmp_path)[1:]}
    code, said, _ = command(*arguments, "--fresh", HERE)
    assert (code, "1 to do" in said) == (0, True)
    assert one.result()["code"] == result["code"]
    assert one.result()["test"] == result["test"]
    assert {run: (run.path / "result.json").stat().st_mtime_ns for run in others} == others


def test_a_run_that_fails_is_tried_twice_and_listed_and_the_others_are_made(command, tmp_path, monkeypatch):
    from indattn import training

    tried = []
    real = training.train

    def train(config):
        tried.append(float(config.noise))
        if config.noise == 1:
            raise UserError("the loss is nan")
        if len(tried) == 1:
            raise RuntimeError("a fault that passes")
        return real(config)

    monkeypatch.setattr(training, "train", train)
    arguments = ["reproduce", "noise_curve", "model=standard", "noise=0,1", "seed=0", *TINY, HERE, "progress=true"]
    code, _, said = command(*arguments, f"results_dir={tmp_path}")
    assert code == 1
    assert tried == [0, 1, 0, 1]
    lines = said.strip().splitlines()
    assert lines[-1] == "indattn: 1 of 2 runs failed; the same command tries them again"
    assert lines[-2].startswith("failed: indattn train experiment=noise_curve")
    assert lines[-2].endswith("the loss is nan")
    assert "1 of 2 runs, 1 failed" in said
    assert [run.labels["noise"] for run in find_runs(tmp_path, state="done")] == [0.0]


def test_two_at_once_share_the_work(tmp_path):
    arguments = [sys.executable, "-m", "indattn.cli", "reproduce", *SMALL, "seed=0", "training.steps=200", "jobs=1"]
    both = [
        subprocess.Popen([*arguments, f"results_dir={tmp_path}"], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    runs = find_runs(tmp_path)
    assert [run.state for run in runs] == ["done"] * 4
    steps = [[line["step"] for line in run.metrics()] for run in runs]
    assert all(own == sorted(set(own)) for own in steps)  # nobody wrote into another's curve
    assert len(load_records(tmp_path)) == 4


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_sigterm_saves_the_runs_at_work_and_the_same_command_goes_on(tmp_path):
    arguments = [
        sys.executable,
        "-m",
        "indattn.cli",
        "reproduce",
        "noise_curve",
        "model=standard",
        "noise=0,1",
        "seed=0",
    ]
    arguments += [*TINY, "training.steps=100000", "training.evaluate_every=10", f"results_dir={tmp_path}", "jobs=2"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    end = time.time() + 120
    while time.time() < end and sum(len(run.metrics()) > 2 for run in find_runs(tmp_path)) < 2:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped with 0 of 2 runs done; the same command goes on" in said
    assert [run.state for run in find_runs(tmp_path)] == ["unfinished"] * 2


@pytest.mark.skipif(os.name != "posix" or shutil.which("ps") is None, reason="process groups")
def test_a_sweep_that_is_killed_ends_as_one_that_was_not():
    script = Path(__file__).parents[1] / "scripts" / "kill_sweep.py"
    arguments = ["--kills=2", "--runs=4", "--steps=300", "--most=1"]
    done = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kills" in done.stdout
    assert "at work" in done.stdout


# Bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "which experiment?"),
        (["nois_curve"], "did you mean 'noise_curve'"),
        (["noise_curve", "model=indirekt"], "model=indirekt: no such model; did you mean 'indirect'"),
        (["noise_curve", "noise=0,2"], "noise=2: must be from 0"),
        (["noise_curve", "task.m=3"], "task.m: no such key"),
        (["noise_curve", "--profile", "fast"], "profile=fast: no such profile"),
        (["noise_curve", "jobs=0"], "jobs=0"),
        (["noise_curve", "dry_run=maybe"], "dry_run=maybe"),
        (["noise_curve", "progress=7", "--dry-run"], "progress=7"),
    ],
)
def test_bad_input_is_one_line(command, arguments, said):
    code, _, error = command("reproduce", *arguments)
    assert code == 2
    assert said in error
    assert error.count("\n") == 1


def test_a_plan_larger_than_the_disk_and_a_tree_without_rights(command, monkeypatch, tmp_path):
    arguments = ["reproduce", *SMALL, "seed=0", f"results_dir={tmp_path}", HERE]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    code, _, error = command(*arguments)
    assert (code, error.count("\n")) == (2, 1)
    assert "4 runs of about 8 MB do not fit" in error
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    code, _, error = command("reproduce", *SMALL, f"results_dir={tmp_path / 'file'}", HERE)
    assert (code, error.count("\n")) == (2, 1)
    assert "cannot write there" in error


def test_a_launcher_that_does_not_work_is_one_line(command, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))  # no srun
    code, _, error = command("reproduce", *SMALL, f"results_dir={tmp_path}", "hydra/launcher=submitit_slurm")
    assert (code, error.count("\n")) == (2, 1)
    assert "this machine has no SLURM" in error
