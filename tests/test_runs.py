"""The results tree: atomic writes, damaged files, and finding runs again."""

from __future__ import annotations

import errno
import json
import os
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from indattn.errors import UserError
from indattn.runs import FORMAT, Run, atomic, find_runs, open_run, write_json

IDENTITY = {
    "task": {"name": "synthetic"},
    "model": {"name": "indirect"},
    "misalignment": {"kind": "shift"},
    "noise": 0.0,
    "seed": 0,
    "training": {"steps": 1},
}


@pytest.fixture
def make_run(tmp_path):
    """Folders that look like runs, without training any."""

    def make(task="synthetic", model="indirect", noise=0.0, seed=0, digest="00000000", state="done"):
        path = tmp_path / "runs" / task / model / f"noise-{noise:.2f}" / f"seed-{seed}" / digest
        path.mkdir(parents=True)
        (path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(IDENTITY)))
        if state == "done":
            write_json(path / "result.json", {"format": FORMAT, "test": {"accuracy": 0.5}})
        if state == "unfinished":
            (path / "trainer.pt").write_bytes(b"state")
        return Run(path)

    return make


# Atomic writes -----------------------------------------------------------------------------------------------


def test_atomic_makes_folders_and_a_readable_file(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    with atomic(path) as file:
        file.write("ünïcode\n")
        assert not path.exists(), "the file must not appear before it is complete"
    assert path.read_text(encoding="utf-8") == "ünïcode\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [RuntimeError("writer"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_failing_writer_leaves_the_old_file_and_nothing_beside(tmp_path, error):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def write():
        with atomic(path, "wb") as file:
            file.write(b"new, half of it")
            raise error

    with pytest.raises(UserError if isinstance(error, OSError) else type(error)) as raised:
        write()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]
    if isinstance(error, OSError):
        assert "file.bin" in str(raised.value)
        assert "No space left" in str(raised.value)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_at_the_end_of_writing_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(UserError, match="No space left"), atomic(path) as file:
        file.write("new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_atomic_syncs_before_it_renames_and_then_the_folder(tmp_path, monkeypatch):
    calls = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(handle):
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        real_sync(handle)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("rename"), real_replace(*names))[1])
    with atomic(tmp_path / "file.txt") as file:
        file.write("x")
    assert calls == ["file", "rename", "folder"]


def test_a_file_system_that_cannot_sync_folders_is_no_error(tmp_path, monkeypatch):
    real = os.fsync

    def sync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(handle)

    monkeypatch.setattr(os, "fsync", sync)
    with atomic(tmp_path / "file.txt") as file:
        file.write("x")
    assert (tmp_path / "file.txt").read_text() == "x"


def test_the_file_that_was_there_can_be_kept(tmp_path):
    path, kept = tmp_path / "new", tmp_path / "old"
    for text in ("1", "2", "3"):
        with atomic(path, keep=kept) as file:
            file.write(text)
    assert (kept.read_text(), path.read_text()) == ("2", "3")
    assert sorted(os.listdir(tmp_path)) == ["new", "old"]


def test_a_parent_that_is_a_file_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"), atomic(tmp_path / "file" / "below.txt") as file:
        file.write("x")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(old=st.binary(max_size=64), new=st.binary(max_size=64), fails=st.booleans())
def test_atomic_is_all_or_nothing(tmp_path, old, new, fails):
    path = tmp_path / "file.bin"
    path.write_bytes(old)
    try:
        with atomic(path, "wb") as file:
            file.write(new)
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert path.read_bytes() == (old if fails else new)
    assert os.listdir(tmp_path) == ["file.bin"]


# What is read back -------------------------------------------------------------------------------------------


def test_metrics_of_a_run_without_any(make_run):
    assert make_run().metrics() == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_metrics_cut_anywhere_give_the_whole_lines_before_the_cut(tmp_path, data):
    lines = [{"step": k, "loss": 1 / (k + 1), "accuracy": 0.5} for k in range(4)]
    whole = "".join(json.dumps(line) + "\n" for line in lines).encode()
    cut = data.draw(st.integers(0, len(whole)))
    (tmp_path / "metrics.jsonl").write_bytes(whole[:cut])
    read = Run(tmp_path).metrics()
    complete = whole[:cut].count(b"\n")
    assert read == lines[: len(read)]
    assert complete <= len(read) <= complete + 1  # a last line that lacks only its newline is whole


def test_metrics_damaged_in_the_middle_name_the_line(make_run):
    run = make_run()
    (run.path / "metrics.jsonl").write_text('{"step": 0}\n{"ste\n{"step": 2}\n')
    with pytest.raises(UserError, match="line 2"):
        run.metrics()


def test_metrics_that_end_in_binary_rubbish_keep_the_lines_before(make_run):
    run = make_run()
    (run.path / "metrics.jsonl").write_bytes(b'{"step": 0}\n\xff\x00\xfe')
    assert run.metrics() == [{"step": 0}]


@pytest.mark.parametrize("content", ["", "[1, 2]", "a: [", "just words", "noise: 0.5\n"])
def test_a_damaged_config_is_a_user_error(make_run, content):
    run = make_run()
    (run.path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml is damaged") as raised:
        run.config()
    assert "force=true" in str(raised.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null", '{"format": 1}', '{"format": 1, "test": 3}', "\xff"])
def test_a_damaged_result_is_a_user_error(make_run, content):
    run = make_run()
    (run.path / "result.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"result\.json is damaged"):
        run.result()


def test_a_result_of_another_format_names_both(make_run):
    run = make_run()
    write_json(run.path / "result.json", {"format": FORMAT + 7, "test": {"accuracy": 1.0}})
    with pytest.raises(UserError, match=f"format {FORMAT + 7}.*{FORMAT}"):
        run.result()


def test_the_result_of_an_unfinished_run_is_a_user_error(make_run):
    with pytest.raises(UserError, match="unfinished"):
        make_run(state="unfinished").result()


@pytest.mark.parametrize("state", ["done", "unfinished", "started"])
def test_state(make_run, state):
    run = make_run(state=state)
    assert run.state == state
    assert run.done == (state == "done")


def test_state_of_a_run_that_is_not_there(tmp_path):
    assert Run(tmp_path / "nowhere").state == "new"


def test_labels_come_from_the_path(make_run):
    run = make_run("sorting", "cross", 0.25, 7, "abcdef01")
    assert run.labels == {"task": "sorting", "model": "cross", "noise": 0.25, "seed": 7, "hash": "abcdef01"}


# Finding runs ------------------------------------------------------------------------------------------------


def test_open_run(make_run, tmp_path):
    run = make_run()
    assert open_run(run.path) == run
    assert open_run(str(run.path)) == run
    with pytest.raises(UserError, match="no such folder"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match="a run below it") as raised:
        open_run(tmp_path)
    assert str(run.path) in str(raised.value)


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({}, 9),
        ({"task": "synthetic"}, 8),
        ({"task": "sorting"}, 1),
        ({"model": "cross"}, 4),
        ({"model": ["cross", "fusion"]}, 5),
        ({"noise": 0.5}, 4),
        ({"noise": 0}, 5),
        ({"noise": [0, 0.5]}, 9),
        ({"seed": 1}, 4),
        ({"seed": [0, 2]}, 5),
        ({"state": "unfinished"}, 1),
        ({"state": "done"}, 8),
        ({"model": "cross", "noise": 0.5, "seed": 1}, 1),
        ({"task": "nothing"}, 0),
        ({"model": []}, 0),
    ],
)
def test_find_runs_filters(make_run, tmp_path, filters, count):
    for model in ("indirect", "cross"):
        for noise in (0.0, 0.5):
            for seed in (0, 1):
                make_run(model=model, noise=noise, seed=seed)
    make_run(task="sorting", model="fusion", seed=2, state="unfinished")
    assert len(find_runs(tmp_path, **filters)) == count


def test_find_runs_orders_by_number_not_by_text(make_run, tmp_path):
    for seed in (10, 9, 2):
        make_run(seed=seed)
    assert [run.labels["seed"] for run in find_runs(tmp_path)] == [2, 9, 10]


def test_find_runs_in_a_tree_that_is_not_there(tmp_path):
    assert find_runs(tmp_path / "nowhere") == []


def test_find_runs_leaves_out_folders_that_are_no_runs(make_run, tmp_path):
    run = make_run()
    (run.path.parent / "empty").mkdir()
    for name in ("noise-old/seed-0", "noise-0.50/seed-first"):
        other = tmp_path / "runs" / "synthetic" / "indirect" / name / "00000000"
        other.mkdir(parents=True)
        (other / "config.yaml").write_text("a: 1\n")
    assert find_runs(tmp_path) == [run]
