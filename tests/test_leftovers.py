"""What `indattn gc` finds and removes, and what it never touches."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import time

import pytest
from filelock import FileLock
from omegaconf import OmegaConf

from indattn.leftovers import find_leftovers, remove
from indattn.runs import FORMAT, Run, write_json

CONFIG = {
    "task": {"name": "synthetic"},
    "model": {"name": "indirect"},
    "misalignment": {"kind": "shift"},
    "noise": 0.0,
    "seed": 0,
    "training": {"steps": 1},
}


@pytest.fixture
def tree(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def make(tree):
    """A run's folder in a state, an hour old."""

    def make(digest, state, seed=0):
        path = tree / "runs" / "synthetic" / "indirect" / "noise-0.00" / f"seed-{seed}" / digest
        path.mkdir(parents=True)
        (path / ".lock").write_text("")
        if state != "new":
            (path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(CONFIG)))
        if state == "done":
            write_json(path / "result.json", {"format": FORMAT, "test": {"accuracy": 0.5}})
        if state == "unfinished":
            (path / "trainer.pt").write_bytes(b"x" * 1000)
        if state == "damaged":
            (path / "config.yaml").write_text("task: [")
        age(path)
        return path

    return make


def age(path, seconds=3600.0):
    then = time.time() - seconds
    for entry in (*path.rglob("*"), path):
        os.utime(entry, (then, then))


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_runs_that_did_not_finish_are_found_with_size_and_age(make, tree):
    make("aaaaaaaa", "done")
    for digest, state in {"bbbbbbbb": "started", "cccccccc": "unfinished", "dddddddd": "damaged"}.items():
        make(digest, state)
    make("eeeeeeee", "new")
    before = everything(tree)
    found = {one.path.name: one for one in find_leftovers(tree)}
    assert {name: one.why for name, one in found.items()} == {
        "bbbbbbbb": "started, nothing saved",
        "cccccccc": "unfinished, could be resumed",
        "dddddddd": "damaged configuration",
        "eeeeeeee": "no configuration",
    }
    assert {one.what for one in found.values()} == {"run"}
    configuration = (found["cccccccc"].path / "config.yaml").stat().st_size
    assert found["cccccccc"].size == 1000 + configuration
    assert found["cccccccc"].age == pytest.approx(3600, abs=60)
    assert everything(tree) == before, "looking leaves nothing behind"


def test_a_run_that_is_being_trained_is_not_touched(make, tree, command):
    held, other = make("aaaaaaaa", "unfinished"), make("bbbbbbbb", "unfinished")
    (leftover,) = [one for one in find_leftovers(tree) if one.path == held]
    with FileLock(held / ".lock"):
        assert [one.path for one in find_leftovers(tree)] == [other]
        assert not remove(leftover, tree), "taken up since it was listed"
        code, _, err = command("gc", "--yes")
        assert code == 0
        assert "removed 1" in err
    assert (held / "trainer.pt").is_file()
    assert not other.exists()


def test_a_run_that_finished_meanwhile_is_not_touched(make, tree):
    path = make("aaaaaaaa", "unfinished")
    (leftover,) = find_leftovers(tree)
    write_json(path / "result.json", {"format": FORMAT})
    assert not remove(leftover, tree)
    assert (path / "trainer.pt").is_file()


def test_a_lock_that_was_not_there_is_not_left(make, tree):
    path = make("aaaaaaaa", "started")
    (path / ".lock").unlink()
    age(path)
    assert len(find_leftovers(tree)) == 1
    assert not (path / ".lock").exists()


def test_temporary_files_of_killed_writers(make, tree):
    done = make("aaaaaaaa", "done")
    started = make("bbbbbbbb", "started")
    figures = tree / "figures"
    figures.mkdir()
    names = [".noise-synthetic.png.ab12_xyz", ".noise.csv.abcdefgh"]
    for file in [
        *(figures / name for name in names),
        done / ".result.json.abcdefgh",
        started / ".config.yaml.abcdefgh",
    ]:
        file.write_text("half of it")
    kept = ["noise.png", ".notes.markdown", ".gitignore", "plain.json.abcdefgh", ".noise.csv.toolongname"]
    for name in kept:
        (figures / name).write_text("somebody's")
    age(tree)
    found = find_leftovers(tree)
    assert [(one.what, one.path) for one in found] == [
        ("run", started),
        *(("temporary file", figures / name) for name in sorted(names)),
    ]
    for one in found:
        assert remove(one, tree)
    assert sorted(os.listdir(figures)) == sorted(kept)
    assert (done / ".result.json.abcdefgh").is_file(), "in the folder of a finished run nothing is touched"


def test_a_file_that_is_being_written_is_left(tree):
    (tree / "tables").mkdir(parents=True)
    (tree / "tables" / ".noise.csv.abcdefgh").write_text("half of it")
    (tree / "empty").mkdir()
    assert find_leftovers(tree) == []


def test_empty_folders_go_with_the_empty_ones_above(make, tree):
    make("aaaaaaaa", "started", seed=1)
    (tree / "runs" / "synthetic" / "cross" / "noise-0.50" / "seed-0" / "cccccccc").mkdir(parents=True)
    age(tree)
    found = find_leftovers(tree)
    assert [(one.what, one.path.name) for one in found] == [("run", "aaaaaaaa"), ("empty folder", "cross")]
    for one in found:
        assert remove(one, tree)
    assert everything(tree) == []


def test_folders_that_only_look_like_runs_are_left(tree):
    path = tree / "runs" / "synthetic" / "indirect" / "noise-none" / "seed-0" / "aaaaaaaa"
    path.mkdir(parents=True)
    (path / "notes").write_text("mine")
    age(tree)
    assert find_leftovers(tree) == []


# The command ---------------------------------------------------------------------------------------------------


def test_without_a_terminal_it_lists_and_says_how_to_remove(make, tree, command):
    make("aaaaaaaa", "unfinished")
    before = everything(tree)
    code, out, err = command("gc")
    assert code == 0
    assert "aaaaaaaa" in out
    assert "1 h" in out
    assert err == "nothing was removed; indattn gc --yes removes what is listed\n"
    assert everything(tree) == before


@pytest.mark.parametrize("yes", ["--yes", "yes=true"])
def test_yes_removes_without_asking(make, tree, command, yes):
    done, left = make("aaaaaaaa", "done"), make("bbbbbbbb", "started", seed=1)
    code, _, err = command("gc", yes)
    assert code == 0
    assert err.startswith("removed 1, ")
    assert not left.parent.exists()
    assert Run(done).done
    assert command("gc")[1] == "nothing to remove in results\n"


@pytest.mark.parametrize(("answer", "gone"), [("y", True), ("YES", True), ("n", False), ("", False), (EOFError, False)])
def test_a_terminal_is_asked(make, tree, command, monkeypatch, answer, gone):
    path = make("aaaaaaaa", "started")

    def reply(question):
        assert "Remove all of it" in question
        if answer is EOFError:
            raise EOFError
        return answer

    monkeypatch.setattr("builtins.input", reply)
    monkeypatch.setattr("indattn.leftovers._asks", lambda: True)
    code, out, err = command("gc")
    assert code == 0
    assert path.exists() != gone
    assert ("removed 1" in err) == gone
    assert ("nothing was removed" in out) != gone


@pytest.mark.parametrize("form", ["csv", "json"])
def test_other_programs_get_numbers_and_are_never_asked(make, tree, command, monkeypatch, form):
    path = make("aaaaaaaa", "unfinished")
    monkeypatch.setattr("indattn.leftovers._asks", lambda: True)
    code, out, _ = command("gc", "--format", form)
    assert code == 0
    (row,) = json.loads(out) if form == "json" else csv.DictReader(io.StringIO(out))
    assert int(row["size"]) > 1000
    assert 3590 < int(row["age"]) < 3700
    assert path.exists()


def test_no_results_at_all(command, tmp_path):
    assert command("gc") == (0, "nothing to remove in results\n", "")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("arguments", "part"), [(["yes=3"], "yes=3"), (["format=xml"], "format=xml")], ids=str)
def test_bad_values(command, arguments, part):
    code, _, err = command("gc", *arguments)
    assert code == 2
    assert err.startswith(f"indattn: {part}: must be")


def test_what_cannot_be_removed_is_named(make, tree, command, monkeypatch):
    make("aaaaaaaa", "started")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("indattn.leftovers.shutil.rmtree", refuse)
    code, _, err = command("gc", "--yes")
    assert code == 2
    assert err.startswith("indattn: cannot remove ")
    assert len(err.splitlines()) == 1


def test_it_needs_no_torch():
    import subprocess

    code = "import sys, indattn.leftovers; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
