"""The command: help without torch, sweeps, completion, and what Hydra leaves behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch

import indattn
from indattn.cli import VERBS
from indattn.config import group_options
from indattn.environment import set_threads
from indattn.training import Trainer

TINY = ["model.layers=1", "model.width=8", "model.heads=2", "task.n=4", "training.batch_size=4", "training.steps=4"]
TINY += ["training.evaluate_every=2", "task.validation_size=8", "task.test_size=8", "figures=false"]


def python(code, *arguments, **options):
    """Run code in a process of its own."""
    environment = {key: value for key, value in os.environ.items() if key != "INDATTN_RESULTS"}
    process = [sys.executable, "-c", code, *arguments]
    return subprocess.run(process, env=environment, capture_output=True, text=True, timeout=100, **options)


# Help ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]], ids=" ".join)
def test_help_lists_the_verbs_and_examples(command, tmp_path, arguments):
    code, out, err = command(*arguments)
    assert (code, err) == (0, "")
    assert "usage: indattn" in out
    for name, verb in VERBS.items():
        assert re.search(rf"^  {name} +{re.escape(verb.summary)}$", out, re.MULTILINE)
    assert re.search(r"^  indattn train \S+=", out, re.MULTILINE), "an example"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("name", list(VERBS))
def test_help_of_a_verb_has_usage_and_examples(command, tmp_path, name, flag):
    code, out, err = command(name, flag)
    assert (code, err) == (0, "")
    assert f"usage: indattn {name}" in out
    assert len(re.findall(rf"^ +indattn {name} ", out.split("\nexamples\n")[1], re.MULTILINE)) >= 2
    assert command(name, "noise=7", flag)[0] == 0, "help goes before everything else"
    assert os.listdir(tmp_path) == []


def test_help_of_train_lists_the_groups(command):
    _, out, _ = command("train", "--help")
    for group in ("model", "task", "misalignment", "size", "experiment"):
        (line,) = re.findall(rf"^  {group} +(.*)$", out, re.MULTILINE)
        assert line.split(", ") == [name for name in group_options(group) if name[0] != "_"]


def test_help_and_version_import_nothing_heavy():
    heavy = ["torch", "hydra", "omegaconf", "numpy", "pandas", "scipy", "matplotlib", "rich"]
    code = f"""
import sys
from indattn.cli import main, VERBS
for arguments in [[], ["--help"], ["--version"], ["traain"], *([name, "--help"] for name in VERBS)]:
    sys.argv = ["indattn", *arguments]
    try:
        main()
    except SystemExit:
        pass
    found = [name for name in {heavy} if name in sys.modules]
    assert not found, (arguments, found)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert f"indattn {indattn.__version__}\n" in done.stdout


@pytest.mark.parametrize(
    "arguments", [["show"], ["train", "nois=1"], ["train", "task=synthetc"], ["train", "--cfg", "job"]], ids=" ".join
)
def test_what_needs_no_torch_imports_none(tmp_path, arguments):
    code = """
import sys
from indattn.cli import main
try:
    main()
except SystemExit:
    pass
assert "torch" not in sys.modules
"""
    done = python(code, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def examples():
    for name in ("train", "evaluate", "show"):
        for line in VERBS[name].usage.split("\nexamples\n")[1].splitlines():
            if match := re.match(rf" +(indattn {name}.*?)(?:  .*)?$", line):
                yield match[1].split(" > ")[0]


@pytest.mark.parametrize("line", list(examples()))
def test_the_examples_of_the_help_compose(command, line):
    """Every example, with the first value of a sweep's lists: its configuration can be composed."""
    _, name, *words = line.split()
    words = [word if "[" in word else word.split(",")[0] for word in words if word != "-m"]
    code, out, err = command(name, *words, "--cfg", "job")
    assert (code, err) == (0, "")
    assert "results_dir" in out or name == "evaluate"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_is_no_error(tmp_path, unbuffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    for arguments in (["--help"], ["train", "--help"]):
        process = subprocess.Popen(
            [sys.executable, "-m", "indattn.cli", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        process.stdout.close()
        error = process.stderr.read()
        process.wait()
        process.stderr.close()
        assert error == ""


# The configuration ---------------------------------------------------------------------------------------------


def test_cfg_prints_the_configuration_and_trains_nothing(command, tmp_path):
    code, out, err = command("train", "noise=0.5", "--cfg", "job")
    assert (code, err) == (0, "")
    assert "noise: 0.5" in out
    assert os.listdir(tmp_path) == []


def test_a_folder_of_configurations_of_ones_own(command, tmp_path):
    (tmp_path / "mine" / "size").mkdir(parents=True)
    (tmp_path / "mine" / "size" / "nano.yaml").write_text(
        "# @package model\nlayers: 1\nheads: 1\nwidth: 4\nffn: null\n"
    )
    code, out, err = command("train", "--config-dir", "mine", "size=nano", "--cfg", "job")
    assert (code, err) == (0, "")
    assert "width: 4" in out


def test_a_group_of_ones_own_is_added_with_a_plus(command, tmp_path):
    (tmp_path / "mine" / "luck").mkdir(parents=True)
    (tmp_path / "mine" / "luck" / "good.yaml").write_text("# @package _global_\nseed: 7\n")
    code, _, err = command("train", "--config-dir", "mine", *TINY, "+luck=good", "++noise=0.5")
    assert (code, err) == (0, "")
    assert set(done(tmp_path / "results")) == {("indirect", 0.5, 7)}


def test_the_environment_moves_the_results(command, monkeypatch, tmp_path):
    monkeypatch.setenv("INDATTN_RESULTS", str(tmp_path / "elsewhere"))
    code, _, err = command("train", *TINY)
    assert (code, err) == (0, "")
    assert os.listdir(tmp_path) == ["elsewhere"]
    assert len(list(tmp_path.glob("elsewhere/runs/**/result.json"))) == 1


# What Hydra leaves ---------------------------------------------------------------------------------------------


def test_a_single_run_leaves_nothing_of_hydra(command, tmp_path):
    code, out, err = command("train", *TINY, "results_dir=mine")
    assert (code, err) == (0, "")
    assert "test accuracy" in out
    assert os.listdir(tmp_path) == ["mine"]
    assert os.listdir(tmp_path / "mine") == ["runs"]
    assert not list(tmp_path.rglob("*.log"))
    assert not list(tmp_path.rglob(".hydra"))


def done(folder):
    """The results below a folder, by model, noise and seed."""
    results = [json.loads(path.read_text()) for path in folder.glob("runs/**/result.json")]
    return {(result["model"], result["noise"], result["seed"]): result for result in results}


def test_a_sweep_trains_every_combination(command, tmp_path):
    code, out, err = command("train", "-m", *TINY, "model=indirect,standard", "seed=0,1")
    assert (code, err) == (0, "")
    results = done(tmp_path / "results")
    assert set(results) == {(model, 0, seed) for model in ("indirect", "standard") for seed in (0, 1)}
    assert out.count("test accuracy") == 4
    assert os.listdir(tmp_path) == ["results"]
    assert set(os.listdir(tmp_path / "results")) == {"runs", "sweeps"}


def test_a_sweep_leaves_nothing_outside_its_results_dir(command, tmp_path):
    code, _, err = command("train", "-m", *TINY, "seed=0,1", "results_dir=mine")
    assert (code, err) == (0, "")
    assert len(done(tmp_path / "mine")) == 2
    assert os.listdir(tmp_path) == ["mine"]


def test_a_sweep_again_finds_its_members_done(command, tmp_path, monkeypatch):
    command("train", "-m", *TINY, "seed=0,1")
    monkeypatch.setattr(Trainer, "_train_step", lambda trainer: pytest.fail("trained again"))
    code, out, err = command("train", "-m", *TINY, "seed=0,1")
    assert (code, err) == (0, "")
    assert out.count("done already") == 2


def test_a_failing_member_does_not_stop_the_others(command, tmp_path):
    code, out, err = command("train", "-m", *TINY, "noise=0,2,1")
    assert set(noise for _, noise, _ in done(tmp_path / "results")) == {0, 1}
    assert code == 2
    assert out.count("test accuracy") == 2
    assert err == "indattn: noise=2: must be from 0 (no misalignment) to 1 (the most)\n"


def test_a_bug_in_a_member_is_not_hidden_by_bad_input_of_another(command, monkeypatch):
    monkeypatch.setattr(Trainer, "fit", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command("train", "-m", *TINY, "noise=2,0")


def test_a_signal_ends_a_sweep(command, tmp_path, monkeypatch):
    real = Trainer._train_step

    def signalled(trainer):
        if trainer.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", signalled)
        code, _, err = command("train", "-m", *TINY, "seed=0,1,2")
    assert code == 143
    (line,) = err.splitlines()
    assert line.startswith("indattn: stopped at step 2 ")
    assert len(list(tmp_path.glob("results/runs/*/*/*/*"))) == 1, "the members after it must not begin"
    code, _, err = command("train", "-m", *TINY, "seed=0,1,2")
    assert (code, err) == (0, "")
    assert len(done(tmp_path / "results")) == 3


def test_parallel_workers_share_the_cores_and_outlive_failing_ones(tmp_path):
    """In a process of its own, for what the workers print and the real number of cores."""
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    code = "import os; os.environ.pop('OMP_NUM_THREADS', None)\nfrom indattn.cli import main; main()"
    ended = python(code, "train", "-m", *TINY, "noise=0.25,2,0.75,3", *parallel, cwd=tmp_path)
    results = done(tmp_path / "results")
    assert {noise for _, noise, _ in results} == {0.25, 0.75}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert {result["hardware"]["threads"] for result in results.values()} == {max(1, cores // 2)}
    assert ended.returncode == 2
    assert sorted(ended.stderr.splitlines()) == [
        f"indattn: noise={noise}: must be from 0 (no misalignment) to 1 (the most)" for noise in (2, 3)
    ]
    assert os.listdir(tmp_path) == ["results"]


@pytest.mark.parametrize(
    ("threads", "jobs", "expected"), [("auto", 1, 8), ("auto", 2, 4), ("auto", 3, 2), ("auto", 10**6, 1), (3, 4, 3)]
)
def test_threads_are_shared_out_over_jobs(monkeypatch, threads, jobs, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    before = torch.get_num_threads()
    try:
        assert set_threads(threads, jobs) == expected
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


# Completion ----------------------------------------------------------------------------------------------------


@pytest.fixture
def complete(command, monkeypatch):
    """What a shell is offered for a line."""

    def offered(line, shell="bash"):
        monkeypatch.setenv("COMP_LINE", line)
        monkeypatch.setenv("COMP_POINT", str(len(line)))
        code, out, err = command("-sc", f"query={shell}")
        assert (code, err) == (0, "")
        return out.split()

    return offered


@pytest.mark.parametrize(
    ("line", "offer"),
    [
        ("indattn tr", "train"),
        ("indattn ", "show"),
        ("indattn train mod", "model="),
        ("indattn train model=ind", "model=indirect"),
        ("indattn train noise=0.5 task=so", "task=sorting"),
        ("indattn train training.st", "training.steps="),
        ("indattn train experiment=fig", "experiment=figure2"),
        ("indattn train model=indirect training.ev", "training.evaluate_every="),
        ("indattn evaluate test_s", "test_seed="),
        ("indattn show form", "format="),
        ("indattn reproduce noise_c", "noise_curve"),
        ("indattn reproduce figure2 model=cro", "model=cross"),
        ("/usr/bin/indattn train model=ind", "model=indirect"),
    ],
)
def test_completion_offers(complete, line, offer):
    offers = complete(line)
    assert offer in offers
    last = line.split(" ")[-1]
    assert len(line.split(" ")) < 3 or all(one.startswith(last) for one in offers)


def test_completion_behind_an_unknown_verb_offers_nothing(complete):
    assert complete("indattn nonsense mod") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_installed(command, shell):
    code, out, err = command("-sc", f"install={shell}")
    assert (code, err) == (0, "")
    assert "-sc query=" in out
    assert re.search(r"complete .*indattn", out)


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_bash_completes_with_what_is_installed(command, tmp_path):
    _, script, _ = command("-sc", "install=bash")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "indattn").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m indattn.cli "$@"\n')
    (folder / "indattn").chmod(0o755)
    line = "indattn train model=ind"
    (tmp_path / "script").write_text(
        f"{script}\ncomplete -p indattn\nCOMP_LINE='{line}' COMP_POINT={len(line)} COMP_CWORD=2\n"
        "hydra_bash_completion\necho offered ${COMPREPLY[@]}\n"
    )
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    process = ["bash", "--norc", str(tmp_path / "script")]
    out = subprocess.run(process, env=environment, capture_output=True, text=True, timeout=60).stdout
    assert re.search(r"^complete .*hydra_bash_completion indattn$", out, re.MULTILINE)
    offered = [f"model={name}" for name in group_options("model") if name.startswith("ind")]
    assert len(offered) > 2
    assert f"offered {' '.join(offered)}\n" in out


def test_claims_are_filtered_by_what_decides_them(command, tmp_path):
    code, out, error = command("claims", "by=two_orders", "format=csv", f"results_dir={tmp_path}")
    assert (code, error) == (0, "")
    from indattn.claims.statements import load_statements

    decided = [name for name, one in load_statements().items() if one.experiment == "two_orders"]
    assert [line.split(",")[0] for line in out.splitlines()[1:]] == decided
    code, _, error = command("claims", "by=figure22", f"results_dir={tmp_path}")
    assert (code, "did you mean" in error) == (2, True)


def test_claims_by_other_seeds_leave_the_ledger_alone(command, tmp_path):
    for said, expected in (("seed=3", "must be a list"), ("seed=[3,x]", "seed=x"), ("seed=[3]", "no claim has runs")):
        code, _, error = command("claims", "by=two_orders", said, f"results_dir={tmp_path}")
        assert (code, expected in error) == (2, True), error
    assert not any(tmp_path.iterdir())
