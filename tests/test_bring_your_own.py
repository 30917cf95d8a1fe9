"""Models, tasks and kinds of misalignment from other packages and folders."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from indattn import figures
from indattn.config import construct, locate
from indattn.errors import UserError
from indattn.models.base import Model
from indattn.tasks.base import Task
from indattn.trees import group_options, installed, package_folder, use

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "own_attention"
TINY = ["model.layers=1", "model.width=8", "model.heads=2", "training.batch_size=4", "training.steps=4"]
TINY += ["training.evaluate_every=2", "task.validation_size=8", "task.test_size=8", "figures=false", "threads=1"]


@pytest.fixture(autouse=True)
def _alone():
    """No tree of one test is searched in another."""
    yield
    use([])
    installed.cache_clear()


def indattn(*arguments, cwd, path, code="from indattn.cli import main; main()", **environment):
    """The command in a process of its own, with folders in front of the import path."""
    before = os.environ.get("PYTHONPATH", "")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), before]), **environment}
    environment.pop("INDATTN_RESULTS", None)
    process = [sys.executable, "-c", code, *arguments]
    return subprocess.run(process, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


def rows(file):
    with open(file, newline="") as text:
        return list(csv.DictReader(text))


# An installed package ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of packages with the example in it, as pip installs it."""
    if not EXAMPLE.is_dir():
        pytest.skip("no checkout: no example")
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "own_attention"
    for file in EXAMPLE.rglob("*.*"):  # pip leaves files where it builds
        if file.is_file() and not {"build", "__pycache__"} & set(file.parts) and ".egg-info" not in str(file):
            (source / file.relative_to(EXAMPLE)).parent.mkdir(parents=True, exist_ok=True)
            (source / file.relative_to(EXAMPLE)).write_bytes(file.read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(folder), str(source)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_example_is_short():
    files = [EXAMPLE / "own_attention" / "__init__.py", *EXAMPLE.rglob("*.yaml")]
    assert len(files) == 2
    assert sum(len(file.read_text().splitlines()) for file in files) < 60


def test_the_example_beside_indirect(site, tmp_path):
    """Its runs, its line in the figure, its rows in the tables, all by the commands of its README."""
    sweep = ["train", "-m", "model=cauchy,indirect", "noise=0,0.5", "seed=0,1", "task.n=4", *TINY]
    done = indattn(*sweep, cwd=tmp_path, path=site)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("test accuracy") == 8
    code = """
import indattn.figures, sys
drawn = indattn.figures.noise_curve
def noise_curve(*arguments):
    figure = drawn(*arguments)
    print("legend", figure.axes[0].get_legend_handles_labels()[1])
    return figure
indattn.figures.noise_curve = noise_curve
from indattn.cli import main
main()
"""
    done = indattn("plot", "noise", cwd=tmp_path, path=site, code=code)
    assert (done.returncode, done.stderr) == (0, "")
    assert "'cauchy', 'indirect'" in done.stdout or "'indirect', 'cauchy'" in done.stdout
    assert (tmp_path / "results" / "figures" / "noise-synthetic.png").stat().st_size > 1000
    tables = tmp_path / "results" / "tables"
    scores = [row for row in rows(tables / "noise-synthetic.csv") if row["model"] == "cauchy"]
    assert [row["noise"] for row in scores] == ["0", "0.5"]
    assert all(row["seeds"] == "2" and float(row["low"]) <= float(row["high"]) for row in scores)
    differences = rows(tables / "noise-synthetic-paired.csv")
    assert [(row["noise"], row["difference"]) for row in differences] == [
        ("0", "indirect - cauchy"),
        ("0.5", "indirect - cauchy"),
    ]
    assert all(float(row["low"]) <= float(row["mean"]) <= float(row["high"]) for row in differences)


def test_an_installed_package_is_known_everywhere(site, tmp_path):
    shown = indattn("train", "--help", cwd=tmp_path, path=site)
    (models,) = re.findall(r"^  model +(.*)$", shown.stdout, re.MULTILINE)
    assert "cauchy" in models.split(", ")
    missed = indattn("train", "model=cauchi", cwd=tmp_path, path=site)
    assert missed.returncode == 2
    assert missed.stderr == "indattn: model=cauchi: no such model; did you mean 'cauchy'?\n"
    line = "indattn train model=cau"
    offered = indattn("-sc", "query=bash", cwd=tmp_path, path=site, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert offered.stdout.split() == ["model=cauchy"]


def test_finding_a_tree_imports_no_package(tmp_path, monkeypatch):
    (tmp_path / "unready" / "configs" / "model").mkdir(parents=True)
    (tmp_path / "unready" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert package_folder("unready.configs") == tmp_path / "unready" / "configs"
    assert package_folder("unready.confgs") is None
    assert package_folder("no_such_package.configs") is None


def entry_point(folder, value):
    """Metadata of an installed package that says where its configurations are."""
    metadata = folder / "broken-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[indattn.configs]\nmine = {value}\n")


def test_an_entry_point_that_leads_nowhere_is_named(command, tmp_path, monkeypatch):
    entry_point(tmp_path / "site", "not_there.configs")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    installed.cache_clear()
    for arguments in (["show"], ["train", "--help"]):
        code, _, err = command(*arguments)
        assert code == 2
        assert err.startswith("indattn: entry point mine=not_there.configs of broken: there is no such package")
        assert len(err.splitlines()) == 1
    assert command("--help")[0] == 0


def test_a_tree_offered_by_an_entry_point_is_searched(command, tmp_path, monkeypatch):
    entry_point(tmp_path / "site", "offered.configs")
    folder(tmp_path / "site" / "offered" / "configs", "model/plain.yaml", "defaults: [indirect]\nname: plain\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    installed.cache_clear()
    code, out, err = command("train", "model=plain", "--cfg", "job")
    assert (code, err) == (0, "")
    assert "name: plain" in out


# --config-dir --------------------------------------------------------------------------------------------------

MODULE = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

from indattn.misalignment import Misalignment
from indattn.models.base import Model
from indattn.models.sequence import Misaligned
from indattn.tasks.synthetic import Synthetic


@dataclass
class Reverse(Synthetic):
    """The value under the mirrored key."""

    name: ClassVar[str] = "reverse"
    kinds: ClassVar[tuple[str, ...]] = ("shift",)
    family: ClassVar[str] = "mine"
    offset: int = 0

    def sample(self, count, generator):
        batch = super().sample(count, generator)
        return {**batch, "targets": (batch["targets"].flip(1) + self.offset) % self.values}

    def answer_positions(self, batch):
        return None


@dataclass
class Swap(Misalignment):
    """The first two values change places with probability ``noise * strength``."""

    kind: ClassVar[str] = "swap"
    tasks: ClassVar[tuple[str, ...]] = ("synthetic", "reverse")
    strength: float = 1.0

    def apply(self, batch, layout, generator):
        content = batch["content"].clone()
        hit = torch.rand(len(content), generator=generator) < self.noise * self.strength
        content[hit, 1:3] = content[hit, 1:3].flip(1)
        return {**batch, "content": content}


class Unfinished(Misalignment):
    kind: ClassVar[str] = "unfinished"
    tasks: ClassVar[tuple[str, ...]] = ("synthetic",)


class Bare(Model):
    pass


class Fixed(Misaligned):
    free_width = "bias_frequencies"
'''


def folder(tree, name, text):
    file = tree / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return tree


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder of files, and the module they name."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").write_text(MODULE)
    (tmp_path / "code" / "mistaken.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    tree = tmp_path / "conf"
    task = "# @package _global_\ndefaults:\n  - synthetic\n  - override /misalignment: swap\n\n"
    folder(
        tree,
        "task/reverse.yaml",
        f"{task}task:\n  _target_: mine.Reverse\n  name: reverse\n  family: mine\n  offset: 1\n",
    )
    folder(tree, "misalignment/swap.yaml", "_target_: mine.Swap\nkind: swap\nstrength: 0.5\n")
    for name, target in {
        "nowhere": "not_there.Model",
        "misspelt": "mine.Miss",
        "mistaken": "mistaken.Model",
        "stranger": "mine.Swap",
        "bare": "mine.Bare",
        "fixed": "mine.Fixed",
    }.items():
        folder(tree, f"model/{name}.yaml", f"defaults: [_base]\n_target_: {target}\nname: {name}\n")
    folder(tree, "misalignment/unfinished.yaml", "_target_: mine.Unfinished\nkind: unfinished\n")
    return tree


def one_line(command, *arguments):
    code, out, err = command(*arguments)
    assert code == 2, err
    assert err.startswith("indattn: "), err
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in out + err
    return err


def test_a_task_and_a_kind_of_ones_own(command, mine, tmp_path):
    given = ["--config-dir", str(mine)]
    own = ["task=reverse", "task.n=4", "task.offset=2", "misalignment.strength=0.75", "noise=0.5", *TINY]
    code, out, err = command("train", *given, *own)
    assert (code, err) == (0, "")
    (run,) = tmp_path.glob("results/runs/reverse/indirect/noise-0.50/seed-0/*")
    config = (run / "config.yaml").read_text()
    assert "offset: 2" in config
    assert "strength: 0.75" in config
    # The kind of one's own on a task of the toolkit, whose best score is then not known; evaluate knows it too.
    code, out, err = command("train", *given, "misalignment=swap", "noise=0.5", "task.n=4", *TINY)
    assert (code, err) == (0, "")
    (run,) = tmp_path.glob("results/runs/synthetic/indirect/noise-0.50/seed-0/*")
    assert '"ceiling": null' in (run / "result.json").read_text()
    code, out, err = command("evaluate", str(run), "kind=[swap,shift]", "noise=0.25", *given, "--format", "csv")
    assert (code, err) == (0, "")
    assert [line.split(",")[5] for line in out.splitlines()] == ["kind", "swap", "shift"]
    assert "known: " in one_line(command, "evaluate", str(run), "kind=zzz", *given)
    code, out, err = command("plot", "noise", "curves", *given)
    assert (code, err) == (0, "")


def test_a_folder_of_ones_own_is_known_everywhere(command, mine, monkeypatch):
    given = ["--config-dir", str(mine)]
    _, out, _ = command("train", "--help", *given)
    (tasks,) = re.findall(r"^  task +(.*)$", out, re.MULTILINE)
    assert "reverse" in tasks.split(", ")
    assert "'reverse'" in one_line(command, "train", *given, "task=revers")
    assert "'task.offset'" in one_line(command, "train", *given, "task=reverse", "task.ofset=1")
    assert "'task.offset'" in one_line(command, "train", f"--config-dir={mine}", "task=reverse", "task.ofset=1")
    line = f"indattn train --config-dir {mine} task=rev"
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert command("-sc", "query=bash")[1].split() == ["task=reverse"]
    command("show")
    assert "reverse" not in group_options("task"), "the folder belongs to the commands that name it"


def test_a_folder_that_is_not_there(command):
    assert "--config-dir nowhere: no such folder" in one_line(command, "train", "--config-dir", "nowhere")
    assert "a folder must follow" in one_line(command, "train", "--config-dir")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["model=nowhere"], ["not_there.Model: cannot import it", "PYTHONPATH"]),
        (["model=misspelt"], ["mine.Miss: cannot import it", "no attribute 'Miss'"]),
        (["model=mistaken"], ["mistaken.Model: cannot import it (SyntaxError"]),
        (["model=stranger"], ["mine.Swap: must be a subclass of indattn.models.base.Model"]),
        (["model=bare"], ["no reference", "model.match_parameters=false"]),
        (["model=fixed"], ["model.bias_frequencies", "model.match_parameters=false"]),
        (["misalignment=unfinished"], ["mine.Unfinished: the class does not define apply"]),
        (["task=sorting", "misalignment=swap"], ["misalignment=swap: task sorting has corrupt, additive"]),
        (["task=reverse", "model=cross"], ["model=cross: not for task=reverse"]),
    ],
    ids=str,
)
def test_a_class_that_cannot_be_used_is_named(command, mine, tmp_path, arguments, parts):
    line = one_line(command, "train", "--config-dir", str(mine), *arguments, *TINY)
    for part in parts:
        assert part in line
    assert not (tmp_path / "results").exists()


def test_a_file_that_would_be_hidden_by_another_is_refused(command, mine):
    folder(mine, "model/indirect.yaml", "name: mine\n")
    line = one_line(command, "train", "--config-dir", str(mine))
    assert str(mine / "model" / "indirect.yaml") in line
    assert "give it another" in line


def test_a_file_that_is_no_yaml_is_named(command, mine):
    folder(mine, "model/torn.yaml", "name: [\n")
    assert "torn.yaml" in one_line(command, "train", "--config-dir", str(mine), "model=torn")


# What takes any class ------------------------------------------------------------------------------------------


def test_a_family_of_ones_own_may_build_on_another(mine, compose):
    import mine as module

    from indattn.build import model_class

    config = compose("model=indirect")
    OmegaConf.set_struct(config, False)
    config.task.family = "mine"
    config.model._target_ = "mine.Misaligned"
    assert model_class(config) is module.Misaligned
    config.model._target_ = "indattn.models.pairs.Dual"
    with pytest.raises(UserError, match="not for task=synthetic"):
        model_class(config)


def test_constructing_an_unfinished_task_says_what_it_lacks(mine):
    with pytest.raises(UserError, match="does not define"):
        construct({"_target_": "indattn.tasks.base.Task"}, Task, "task")
    assert locate("mine.Bare", Model, "model._target_").__name__ == "Bare"


def test_a_dozen_models_of_ones_own_have_a_marker_each():
    models = [f"own_{i}" for i in range(12)]
    markers = [figures.style(model, models)[1] for model in models]
    assert len(set(markers)) == 12
    assert not set(markers) & {marker for _, marker, _ in figures.STYLES.values()}
