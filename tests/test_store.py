"""The record of finished runs, the index of all runs, and the hash of the code."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from indattn import provenance
from indattn.errors import UserError
from indattn.index import run_rows
from indattn.provenance import code_hash, modules_of
from indattn.runs import FORMAT, Run, find_runs, open_run, write_json
from indattn.store import add_records, load_records, record_files

IDENTITY = {
    "task": {"name": "synthetic", "_target_": "indattn.tasks.synthetic.Synthetic"},
    "model": {"name": "indirect", "_target_": "indattn.models.sequence.Indirect", "backend": "auto"},
    "misalignment": {"kind": "shift", "_target_": "indattn.misalignment.Shift"},
    "noise": 0.5,
    "seed": 0,
    "training": {"steps": 1, "lr": 1e-3},
}


def made(tree, task="synthetic", seed=0, per_example=(3, 4), accuracy=0.5, done=True):
    """A run's folder as training leaves it, without its weights."""
    path = tree / "runs" / task / "indirect" / "noise-0.50" / f"seed-{seed}" / "00000000"
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create({**IDENTITY, "seed": seed})))
    lines = [{"step": step, "accuracy": step / 3, "loss": 0.1, "train_loss": 0.2} for step in range(2)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = {
        "format": FORMAT,
        "kind": "shift",
        "test": {"accuracy": accuracy},
        "steps": 1,
        "steps_to_0.9": None,
        "seconds": 1.25,
        "commit": "c0ffee",
        "code": "12345678",
        "per_example": list(per_example) if isinstance(per_example, tuple) else per_example,
    }
    if done:
        write_json(path / "result.json", result)
        write_json(path / "evaluations" / "a.json", {"noise": 1.0, "accuracy": 0.1, "per_example": {"x": [0.5, None]}})
    return Run(path)


def contents(run):
    return run.config(), run.result(), run.metrics(), run.evaluations()


# The record --------------------------------------------------------------------------------------------------


def test_a_recorded_run_reads_as_its_folder_did(tmp_path):
    run = made(tmp_path, per_example={"start": [-37.1, None, 0.0], "rank": [1, 70000], "top": [[1, 2], [3, 4]]})
    before = contents(run)
    assert add_records(tmp_path, [run]) == (1, 1)
    shutil.rmtree(run.path)
    assert contents(run) == before
    assert (run.done, run.known, run.state) == (False, True, "recorded")
    assert find_runs(tmp_path) == [run] == find_runs(tmp_path, state="recorded")
    assert open_run(run.path) == run


numbers = st.one_of(
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False, allow_infinity=False),
    st.decimals(-9999, 9999, places=1, allow_nan=False).map(float),
)
leaves = st.one_of(
    st.lists(numbers, max_size=6),
    st.lists(st.one_of(st.none(), st.floats(-99, 99)), max_size=6),
    st.lists(st.booleans(), max_size=3),
    st.lists(st.lists(st.integers(-300, 300), min_size=2, max_size=2), max_size=3),
    st.none(),
    st.text(max_size=3),
)


@example([2**32, -(2**53) - 1])
@example([2**53 + 1, 0.5])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.recursive(leaves, lambda inner: st.dictionaries(st.text("abc", min_size=1), inner, max_size=3), max_leaves=5))
def test_what_is_said_of_examples_comes_back_exactly(tmp_path_factory, value):
    tree = tmp_path_factory.mktemp("tree")
    run = made(tree, per_example=value)
    read = run.result()["per_example"]
    add_records(tree, [run])
    shutil.rmtree(run.path)
    assert run.result()["per_example"] == read


def test_the_record_is_small_and_equal_arrays_are_kept_once(tmp_path):
    generator = np.random.default_rng(0)
    who = np.repeat(np.arange(500), 6).tolist()

    def errors():
        return {"who": who, "start": np.round(generator.normal(0, 30, 3000), 1).tolist()}

    add_records(tmp_path, [made(tmp_path, seed=seed, per_example=errors()) for seed in range(4)])
    size = sum(file.stat().st_size for file in (tmp_path / "records").iterdir())
    folders = sum(run.path.joinpath("result.json").stat().st_size for run in find_runs(tmp_path))
    assert size < folders / 5
    with np.load(tmp_path / "records" / "synthetic.npz") as arrays:
        shapes = sorted(arrays[name].shape for name in arrays.files)
    assert shapes == [(2,)] + [(3000,)] * 5  # the evaluations' one, who once, start of each


def test_equal_records_are_equal_bytes_and_an_unchanged_run_changes_nothing(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    add_records(one, [made(one, seed=seed) for seed in (0, 1)])
    for seed in (1, 0):
        add_records(other, [made(other, seed=seed)])
    for name in ("synthetic.jsonl.gz", "synthetic.npz"):
        assert (one / "records" / name).read_bytes() == (other / "records" / name).read_bytes()
    assert add_records(one, find_runs(one)) == (0, 2)


def test_a_run_made_again_takes_the_place_of_its_record(tmp_path):
    add_records(tmp_path, [made(tmp_path, per_example=(1, 2))])
    assert add_records(tmp_path, [made(tmp_path, per_example=(5, 6), accuracy=0.75)]) == (1, 1)
    with np.load(tmp_path / "records" / "synthetic.npz") as arrays:
        assert [5, 6] in [arrays[name].tolist() for name in arrays.files]
        assert [1, 2] not in [arrays[name].tolist() for name in arrays.files]


def test_a_folder_goes_before_its_record(tmp_path):
    run = made(tmp_path)
    add_records(tmp_path, [run])
    made(tmp_path, accuracy=0.75)
    assert run.result()["test"]["accuracy"] == 0.75
    assert find_runs(tmp_path) == [run]


def test_pandas_reads_it_in_one_line(tmp_path):
    add_records(tmp_path, [made(tmp_path, seed=seed) for seed in (0, 1)])
    table = pd.read_json(tmp_path / "records" / "synthetic.jsonl.gz", lines=True, dtype=False)
    assert table[["model", "noise", "seed", "accuracy", "commit", "code"]].values.tolist() == [
        ["indirect", 0.5, seed, 0.5, "c0ffee", "12345678"] for seed in (0, 1)
    ]


@pytest.mark.parametrize("damage", ["cut", "text", "version", "arrays", "no arrays"])
def test_a_damaged_record_is_one_line(tmp_path, damage, command):
    run = made(tmp_path)
    add_records(tmp_path, [run])
    shutil.rmtree(run.path)
    lines, arrays = tmp_path / "records" / "synthetic.jsonl.gz", tmp_path / "records" / "synthetic.npz"
    if damage == "cut":
        lines.write_bytes(lines.read_bytes()[:-20])
    elif damage == "text":
        lines.write_text("no gzip")
    elif damage == "version":
        import gzip

        lines.write_bytes(gzip.compress(gzip.decompress(lines.read_bytes()).replace(b'"format":1', b'"format":99', 1)))
    elif damage == "arrays":
        arrays.write_bytes(b"nothing")
    else:
        arrays.unlink()
    with pytest.raises(UserError, match="records"):
        run.result()
    code, _, said = command("plot", "curves", f"results_dir={tmp_path}")
    assert code == 2
    assert said.count("\n") == 1


def test_an_unfinished_run_has_no_record(tmp_path):
    with pytest.raises(UserError, match="not done"):
        add_records(tmp_path, [made(tmp_path, done=False)])
    assert record_files(tmp_path) == []


ADD = """
import sys
from pathlib import Path
from indattn.runs import find_runs
from indattn.store import add_records
tree, seed = Path(sys.argv[1]), int(sys.argv[2])
add_records(tree, find_runs(tree, seed=seed))
"""


def test_processes_that_record_at_once_lose_nothing(tmp_path):
    for seed in range(4):
        made(tmp_path, seed=seed)
    adding = [subprocess.Popen([sys.executable, "-c", ADD, str(tmp_path), str(seed)]) for seed in range(4)]
    assert [process.wait(60) for process in adding] == [0] * 4
    assert sorted(record["seed"] for record in load_records(tmp_path).values()) == [0, 1, 2, 3]


# The index ---------------------------------------------------------------------------------------------------


def test_rows_with_and_without_an_index_are_the_same(tmp_path):
    add_records(tmp_path, [made(tmp_path, seed=seed) for seed in (0, 1)])
    shutil.rmtree(tmp_path / "runs" / "synthetic" / "indirect" / "noise-0.50" / "seed-0")
    made(tmp_path, seed=2, done=False)
    first = run_rows(tmp_path)
    assert [(row["seed"], row["state"]) for row in first] == [(0, "recorded"), (1, "done"), (2, "started")]
    assert (tmp_path / "runs" / ".index.json").is_file()
    assert run_rows(tmp_path) == first
    for broken in ("", "[]", '{"format": 1, "columns": []}'):
        (tmp_path / "runs" / ".index.json").write_text(broken)
        assert run_rows(tmp_path) == first
    assert run_rows(tmp_path, seed=[0, 2], state="started") == first[2:]
    assert run_rows(tmp_path, noise=0.25) == []


def test_the_index_follows_the_tree(tmp_path):
    run = made(tmp_path)
    assert run_rows(tmp_path)[0]["accuracy"] == 0.5
    made(tmp_path, accuracy=0.625)
    assert run_rows(tmp_path)[0]["accuracy"] == 0.625
    (run.path / "result.json").write_text("{")
    assert run_rows(tmp_path)[0]["state"] == "damaged"
    shutil.rmtree(run.path)
    assert run_rows(tmp_path) == []
    assert json.loads((tmp_path / "runs" / ".index.json").read_text())["folders"] == {}


def test_a_tree_that_cannot_be_written_is_listed(tmp_path, monkeypatch):
    made(tmp_path)

    def refused(*_, **__):
        raise OSError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refused)
    assert len(run_rows(tmp_path)) == 1


# The hash of the code ----------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An own package with a task that imports a helper; changing its files is what the tests do."""
    folder = tmp_path / "mytasks"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "task.py").write_text("def f():\n    from . import helper\n    return helper.NUMBER\n")
    (folder / "helper.py").write_text("NUMBER = 1\n")
    (folder / "other.py").write_text("NUMBER = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def hashed(*roots):
    provenance.hash_of.cache_clear()
    config = {
        group: {"_target_": f"{root}.X"} for group, root in zip(("task", "model", "misalignment"), roots, strict=True)
    }
    return code_hash(OmegaConf.create(config))


OURS = ("indattn.models.sequence", "indattn.misalignment")


def test_the_hash_changes_with_code_that_is_used_and_with_nothing_else(package):
    before = hashed("mytasks.task", *OURS)
    (package / "other.py").write_text("NUMBER = 2\n")
    assert hashed("mytasks.task", *OURS) == before
    (package / "helper.py").write_text('"""Says what.\n\nAt length.\n"""\n\n# why\nNUMBER = 1  # one\n')
    assert hashed("mytasks.task", *OURS) == before
    (package / "helper.py").write_text("NUMBER = 2\n")
    assert hashed("mytasks.task", *OURS) != before


def test_text_that_looks_like_a_comment_counts(package):
    (package / "helper.py").write_text('NUMBER = "a # b"\n')
    before = hashed("mytasks.task", *OURS)
    (package / "helper.py").write_text('NUMBER = "a # c"\n')
    assert hashed("mytasks.task", *OURS) != before


def test_a_task_of_its_own_code_and_not_another_tasks():
    synthetic = modules_of(("indattn.tasks.synthetic", *OURS))
    assert {"indattn.tasks.synthetic", "indattn.tasks.base", "indattn.attention.functional", "indattn.training"} <= set(
        synthetic
    )
    assert "indattn.tasks.sorting" not in synthetic
    assert not {name for name in synthetic if "plot" in name or "figures" in name or ".data" in name}
    speech = modules_of(("indattn.tasks.speech_text_alignment", "indattn.models.alignment", "indattn.misalignment"))
    assert {"indattn.data.speech.features", "indattn.alignment.decode"} <= set(speech)


def test_a_finished_run_says_its_code(compose):
    from indattn.training import train

    tiny = ["model.layers=1", "model.width=8", "model.heads=2", "task.n=4", "training.batch_size=4", "training.steps=2"]
    config = compose(*tiny, "task.validation_size=8", "task.test_size=8")
    run, result = train(config)
    assert result["code"] == code_hash(config)
    add_records(run.results_dir, [run])
    assert load_records(run.results_dir)[run.key]["code"] == result["code"]
    assert math.isfinite(result["test"]["accuracy"])
