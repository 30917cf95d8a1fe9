"""Bad input: one line that says what, where and what would be right; exit code 2; nothing written."""

from __future__ import annotations

import json
import os
import shutil
import sys

import pytest
from hydra import compose as compose_config
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from indattn.config import configs_dir
from indattn.errors import UserError
from indattn.runs import FORMAT, Run
from indattn.training import train

SIZE = ["model.layers=1", "model.width=8", "model.heads=2", "training.batch_size=4", "training.steps=2"]
SIZE += ["training.evaluate_every=2", "task.validation_size=8", "task.test_size=8", "figures=false", "threads=1"]


def one_line(command, *arguments):
    """The line of a command that fails because of its input."""
    code, out, err = command(*arguments)
    assert err.startswith("indattn: "), err
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in out + err
    assert code == 2
    return err


# train ---------------------------------------------------------------------------------------------------------

MISSPELT = [
    ("tsak=synthetic", "'task'"),
    ("tsak.n=3", "'task.n'"),
    ("model.widht=8", "'model.width'"),
    ("training.setps=3", "'training.steps'"),
    ("nois=0.5", "'noise'"),
    ("sed=1", "'seed'"),
    ("result_dir=x", "'results_dir'"),
    ("steps=3", "'training.steps'"),
    ("task.tpies=1", "task."),
    ("task=synthetc", "'synthetic'"),
    ("model=indirct", "'indirect'"),
    ("model=_bsae", "known"),
    ("misalignment=shfit", "'shift'"),
    ("size=papr", "'paper'"),
    ("experiment=figur2", "'figure2'"),
]


@pytest.mark.parametrize(("override", "hint"), MISSPELT, ids=[override for override, _ in MISSPELT])
def test_a_misspelt_name_gets_the_nearest(command, tmp_path, override, hint):
    line = one_line(command, "train", override)
    assert override.split("=")[0] in line
    assert hint in line
    first, _, second = line.partition(" or ")
    assert not second or first.split()[-1] != second.rstrip("?\n"), f"the same name twice: {line}"
    assert os.listdir(tmp_path) == []


VALUES = [
    ("model.norm=pree", ["model.norm", "pree", "'pre'", "'post'"]),
    ("training.precision=fp8", ["training.precision", "'fp32'", "'bf16'"]),
    ("noise=-0.1", ["noise=-0.1", "0", "1"]),
    ("noise=1.5", ["noise=1.5", "0", "1"]),
    ("noise=abc", ["noise=abc", "number"]),
    ("noise=nan", ["noise=nan"]),
    ("noise=true", ["noise", "number"]),
    ("noise=[0,2]", ["noise"]),
    ("seed=-1", ["seed=-1"]),
    ("seed=abc", ["seed=abc"]),
    ("model.heads=3", ["model.heads=3", "model.width=8"]),
    ("model.queries=100", ["model.queries=100", "33"]),
    ("model=null", ["model"]),
    ("model=dual", ["model=dual", "task=synthetic"]),
    ("model=uniform", ["model=uniform", "task=synthetic"]),
    ("misalignment=corrupt", ["corrupt", "synthetic", "shift", "shuffle", "additive"]),
    ("device=nonsense", ["device=nonsense", "cpu"]),
    ("threads=0", ["threads=0"]),
    ("threads=many", ["threads=many", "auto"]),
    ("threads=true", ["threads"]),
    ("progress=maybe", ["progress=maybe", "auto"]),
    ("training.steps=0", ["training.steps=0"]),
    ("training=3", ["training"]),
    ("results_dir=null", ["results_dir"]),
    ("+model.foo=1", ["model.foo"]),
    ("~model", ["model"]),
    ("~noise", ["noise"]),
]


@pytest.mark.parametrize(("override", "parts"), VALUES, ids=[override for override, _ in VALUES])
def test_a_value_that_cannot_be_is_named(command, tmp_path, override, parts):
    line = one_line(command, "train", *SIZE, override)
    for part in parts:
        assert part in line
    assert os.listdir(tmp_path) == []


ADDED = [
    (["train", "+foo=1"], ["foo: no such key"]),
    (["train", "+nois=0.5"], ["nois: no such key", "'noise'"]),
    (["train", "+widht=8"], ["widht: no such key", "'model.width'"]),
    (["train", "++foo.bar=1"], ["foo: no such key"]),
    (["train", "+model@other=cross"], ["other: no such key"]),
    (["train", "+training.setps=3"], ["training.setps: no such key", "'steps'"]),
    (["train", "+task.foo=1"], ["task.foo: no such key", "train_size"]),
    (["train", "+task.kind=shuffle"], ["task.kind: no such key"]),
    (["train", "+misalignment.noise=1"], ["misalignment.noise: no such key"]),
    (["train", "+noise=0.5"], ["++noise=0.5"]),
    (["bench", "+rouns=1"], ["rouns: no such key", "'rounds'"]),
    (["evaluate", "+nois=1"], ["nois: no such key", "'noise'"]),
    (["plot", "+sede=1"], ["sede: no such key", "'seed'"]),
    (["show", "+fromat=csv"], ["fromat: no such key", "'format'"]),
    (["show", "+where.foo=1"], ["foo: no such key"]),
]


@pytest.mark.parametrize(("arguments", "parts"), ADDED, ids=[" ".join(arguments) for arguments, _ in ADDED])
def test_an_added_key_that_nothing_reads(command, tmp_path, arguments, parts):
    """Hydra lets + add any key: one that nothing reads would be left out in silence."""
    line = one_line(command, *arguments, *(SIZE if arguments[0] == "train" else ()))
    for part in parts:
        assert part in line
    assert os.listdir(tmp_path) == []


def test_an_added_key_in_a_sweep_is_refused_once(command, tmp_path):
    assert "foo: no such key" in one_line(command, "train", "-m", *SIZE, "task.n=4", "+foo=1", "seed=0,1")
    assert not (tmp_path / "results" / "runs").exists()


#: More of them, without the command around: it says of all of them what it says of those above.
MORE_VALUES = [
    ("model.bias=mpl", ["model.bias", "'mlp'", "'none'"]),
    ("model.bias=indattn.models.decoder.Decoder", ["model.bias", "PositionBias"]),
    ("model.bias=nowhere.Bias", ["model.bias", "No module named 'nowhere'"]),
    ("model.backend=quick", ["model.backend", "'auto'", "'folded'"]),
    ("model.backend=folded", ["model.backend='folded'", "not separable"]),
    ("model.backend=flex", ["model.backend='flex'", "no gradients on cpu"]),
    ("model.bias_columns=outside", ["model.bias_columns", "'inside'"]),
    ("model.bias_columns=inside", ["model.bias_columns", "separable"]),
    ("model.bias_frequencies=0", ["model.bias_frequencies=0"]),
    ("model.centre_update=add", ["model.centre_update", "'additive'"]),
    ("noise=inf", ["noise=inf"]),
    ("noise=null", ["noise"]),
    ("noise=", ["noise"]),
    ("seed=1.5", ["seed=1.5"]),
    ("seed=true", ["seed"]),
    ("seed=99999999999999999999999", ["seed"]),
    ("model.heads=0", ["model.heads=0"]),
    ("model.queries=0", ["model.queries=0"]),
    ("model.queries=-1", ["model.queries=-1"]),
    ("model.width=0", ["model.width=0"]),
    ("model.layers=two", ["model.layers=two", "int"]),
    ("model.ffn=0", ["model.ffn=0"]),
    ("model.dropout=1", ["model.dropout=1"]),
    ("model.offset_scale=0", ["model.offset_scale=0"]),
    ("task.n=0", ["task.n=0"]),
    ("task.values=1", ["task.values=1"]),
    ("task.validation_size=0", ["task.validation_size=0"]),
    ("task.test_size=0", ["task.test_size=0"]),
    ("task.train_size=3", ["task.train_size=3", "training.batch_size"]),
    ("task._target_=os.system", ["task._target_=os.system", "Task"]),
    ("task._target_=nothing.here", ["task._target_=nothing.here", "nothing"]),
    ("training.steps=ten", ["training.steps=ten", "int"]),
    ("training.batch_size=0", ["training.batch_size=0"]),
    ("training.evaluate_every=0", ["training.evaluate_every=0"]),
    ("training.checkpoint_every=0", ["training.checkpoint_every=0"]),
    ("training.lr=0", ["training.lr=0"]),
    ("training.lr=nan", ["training.lr=nan"]),
    ("training.grad_clip=-1", ["training.grad_clip=-1"]),
    ("training.weight_decay=-1", ["training.weight_decay=-1"]),
    ("training.warmup_steps=-1", ["training.warmup_steps=-1"]),
    ("training.decay_fraction=2", ["training.decay_fraction=2"]),
    ("training.keep_checkpoints=[99]", ["training.keep_checkpoints", "99", "training.steps=2"]),
    ("training.keep_checkpoints=3", ["training.keep_checkpoints=3", "list"]),
]


@pytest.fixture(scope="module")
def small():
    """A configuration that could be trained."""
    with initialize_config_dir(str(configs_dir()), version_base="1.3"):
        return compose_config("train", overrides=[*SIZE, "task.n=4"])


@pytest.mark.parametrize(("override", "parts"), MORE_VALUES, ids=[override for override, _ in MORE_VALUES])
def test_more_values_that_cannot_be_are_named(small, tmp_path, override, parts):
    config = OmegaConf.merge(small, OmegaConf.from_dotlist([override, f"results_dir={tmp_path}"]))
    with pytest.raises(UserError) as raised:
        train(config)
    for part in parts:
        assert part in str(raised.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["task=sorting", "task.ties=stabel"], ["task.ties", "stabel", "'stable'", "'lowest'"]),
        (["task=sorting", "misalignment=shift"], ["shift", "sorting", "corrupt"]),
        (["task=sorting", "task.n=3"], ["task.n"]),
        (["task=sequence_retrieval", "task.query_length=11"], ["query_length"]),
        (["model.learned_queries=false", "model.content_queries=false"], ["learned_queries"]),
        (["noise=[0"], ["[0"]),
        (["noise==1"], ["noise==1"]),
        (["noise=0,1"], ["noise=0,1", "--multirun"]),
        (["synthetic"], ["'synthetic'", "KEY=VALUE"]),
        (["noise=0.5", "task", "synthetic"], ["'task'", "KEY=VALUE"]),
        (["hydra/launcher=jobli"], ["hydra/launcher", "jobli"]),
        (["--config-dir=nowhere"], ["nowhere"]),
        (["--nonsense"], ["--nonsense"]),
        (["--cfg", "jbo"], ["jbo"]),
    ],
    ids=" ".join,
)
def test_other_ways_to_be_wrong(command, tmp_path, arguments, parts):
    line = one_line(command, "train", *arguments)
    for part in parts:
        assert part in line
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("override", ["task.name=../../outside", "model.name=a/b", "model.name=''"])
def test_a_name_that_is_no_folder_name(small, tmp_path, override):
    config = OmegaConf.merge(small, OmegaConf.from_dotlist([override, f"results_dir={tmp_path}/a/b"]))
    with pytest.raises(UserError, match=override.split("=")[0]):
        train(config)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "override",
    ["misalignment.kind=shuffle", "misalignment._target_=indattn.misalignment.Shuffle"],
)
def test_a_kind_that_is_not_its_class(small, tmp_path, override):
    """Else the results would carry the name of another kind."""
    config = OmegaConf.merge(small, OmegaConf.from_dotlist([override, f"results_dir={tmp_path}"]))
    with pytest.raises(UserError, match="misalignment"):
        train(config)
    assert os.listdir(tmp_path) == []


def test_results_below_a_file(command, tmp_path):
    (tmp_path / "file").write_text("mine")
    line = one_line(command, "train", *SIZE, "task.n=4", "results_dir=file/below")
    assert "file/below" in line
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(
    sys.platform == "win32" or not os.path.isdir("/proc/self"), reason="no folder refuses to be written"
)
def test_results_where_nobody_may_write(command):
    assert "/proc/self/results" in one_line(command, "train", *SIZE, "task.n=4", "results_dir=/proc/self/results")


@pytest.mark.parametrize("content", ["{", '{"format": 99, "test": {"accuracy": 1}}'])
def test_training_does_not_take_a_damaged_result_for_done(compose, command, content):
    config = compose(*SIZE, "task.n=4")
    run, _ = train(config)
    (run.path / "result.json").write_text(content)
    line = one_line(command, "train", *SIZE, "task.n=4")
    assert "result.json" in line
    assert command("train", *SIZE, "task.n=4", "force=true")[0] == 0
    assert run.result()["format"] == FORMAT


# evaluate ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(small, tmp_path_factory):
    """A finished run, trained once."""
    folder = tmp_path_factory.mktemp("template")
    config = OmegaConf.merge(small, {"results_dir": str(folder)})
    return train(config)[0]


@pytest.fixture
def finished(template, tmp_path):
    """A finished run of the test's own."""
    runs = template.path.parents[4]
    shutil.copytree(runs, tmp_path / "results" / "runs")
    return Run(tmp_path / "results" / "runs" / template.path.relative_to(runs))


def evaluations(run):
    return list(run.path.glob("evaluations/*"))


def test_evaluate_nothing(command):
    assert "indattn evaluate" in one_line(command, "evaluate")


def test_evaluate_a_split_that_is_not_there(command):
    assert "split=train: must be test or validation" in one_line(command, "evaluate", "nowhere", "split=train")


def test_evaluate_a_folder_that_is_not_there(command, tmp_path):
    assert "nowhere" in one_line(command, "evaluate", "nowhere")
    assert os.listdir(tmp_path) == []


def test_evaluate_a_folder_that_is_no_run(command, tmp_path):
    (tmp_path / "folder").mkdir()
    assert "folder is not a run" in one_line(command, "evaluate", "folder")
    assert os.listdir(tmp_path / "folder") == []


def test_evaluate_a_folder_above_a_run_names_the_run(command, finished, tmp_path):
    assert str(finished.path.relative_to(tmp_path)) in one_line(command, "evaluate", "results")


def test_evaluate_an_unfinished_run(command, finished):
    (finished.path / "result.json").unlink()
    line = one_line(command, "evaluate", str(finished.path))
    assert str(finished.path) in line
    assert "not done" in line
    assert not evaluations(finished)


@pytest.mark.parametrize("content", ["", "{", "- a\n- b\n", "noise: 0.5\n", "a: ${b}\n"])
def test_evaluate_with_a_damaged_config(command, finished, content):
    (finished.path / "config.yaml").write_text(content)
    line = one_line(command, "evaluate", str(finished.path))
    assert "config.yaml" in line
    assert "damaged" in line
    assert not evaluations(finished)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}'])
def test_evaluate_with_a_damaged_result(command, finished, content):
    (finished.path / "result.json").write_text(content)
    line = one_line(command, "evaluate", str(finished.path))
    assert "result.json" in line
    assert "damaged" in line
    assert not evaluations(finished)


def test_evaluate_a_result_of_another_format(command, finished):
    result = finished.result()
    (finished.path / "result.json").write_text(json.dumps({**result, "format": FORMAT + 1}))
    line = one_line(command, "evaluate", str(finished.path))
    assert f"format {FORMAT + 1}" in line
    assert not evaluations(finished)


@pytest.mark.parametrize("damage", ["truncated", "empty", "rubbish", "missing", "other model"])
def test_evaluate_with_damaged_weights(command, finished, compose, damage):
    file = finished.path / "model.safetensors"
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "other model":
        other, _ = train(compose(*SIZE, "task.n=4", "model=cross"))
        file.write_bytes((other.path / "model.safetensors").read_bytes())
    else:
        file.write_bytes(
            {"truncated": content[: len(content) // 2], "empty": b"", "rubbish": bytes(range(256)) * 9}[damage]
        )
    assert "model.safetensors" in one_line(command, "evaluate", str(finished.path))
    assert not evaluations(finished)


def test_evaluate_checks_all_runs_before_it_scores_one(command, finished, tmp_path):
    assert "nowhere" in one_line(command, "evaluate", str(finished.path), "nowhere")
    assert not evaluations(finished)


EVALUATE = [
    ("noise=[0,2]", ["noise=2"]),
    ("noise=-1", ["noise=-1"]),
    ("noise=abc", ["noise=abc"]),
    ("kind=nonsense", ["nonsense", "shift"]),
    ("kind=shfit", ["shfit", "'shift'"]),
    ("kind=[shift,nonsense]", ["nonsense"]),
    ("kind=corrupt", ["corrupt", "synthetic", "shift", "shuffle", "additive"]),
    ("test_seed=-1", ["test_seed=-1"]),
    ("test_seed=abc", ["test_seed=abc"]),
    ("test_seed=true", ["test_seed"]),
    ("test_seed=99999999999999999999999999999999999999999", ["test_seed"]),
    ("device=nonsense", ["device=nonsense"]),
    ("threads=0", ["threads=0"]),
    ("format=xml", ["format=xml", "csv"]),
    ("knid=shift", ["knid", "'kind'"]),
]


@pytest.mark.parametrize(("override", "parts"), EVALUATE, ids=[override[:30] for override, _ in EVALUATE])
def test_evaluate_with_bad_values(command, finished, override, parts):
    line = one_line(command, "evaluate", str(finished.path), override)
    for part in parts:
        assert part in line
    assert not evaluations(finished), "nothing may be written before all of the input is checked"


def test_evaluate_a_path_that_is_a_number(command):
    assert "3" in one_line(command, "evaluate", "run=3")


# The command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("traain", "'train'"),
        ("shwo", "'show'"),
        ("evaluat", "'evaluate'"),
        ("task=synthetic", "train"),
        ("xyz", "train"),
    ],
)
def test_an_unknown_verb_gets_the_nearest(command, tmp_path, word, hint):
    line = one_line(command, word)
    assert repr(word) in line
    assert hint in line
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["nowhere"], ["nowhere"]),
        (["state=dnoe"], ["state=dnoe", "'done'"]),
        (["format=xml"], ["format=xml", "csv"]),
        (["nios=0.5"], ["nios", "'noise'"]),
    ],
    ids=" ".join,
)
def test_show_with_bad_values(command, tmp_path, arguments, parts):
    line = one_line(command, "show", *arguments)
    for part in parts:
        assert part in line
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "filters"),
    [
        (["show", "RUN", "noise=0.5"], "noise=0.5"),
        (["show", "RUN", "task=synthetic", "state=done"], "task=synthetic state=done"),
        (["plot", "curves", "run=RUN", "model=standard"], "model=standard"),
        (["plot", "run=[RUN]", "seed=[0,1]"], "seed=[0, 1]"),
    ],
    ids=["show", "show, two filters", "plot", "plot, lists"],
)
def test_filters_beside_the_folder_of_a_run(command, finished, tmp_path, arguments, filters):
    path = str(finished.path.relative_to(tmp_path))
    line = one_line(command, *(argument.replace("RUN", path) for argument in arguments))
    assert f"{filters}: cannot be combined" in line
    assert path in line
    assert os.listdir(tmp_path / "results") == ["runs"]


def test_show_lists_a_damaged_run_among_the_others(command, finished, compose):
    other = Run.of(compose(*SIZE, "task.n=4", "seed=1"))
    train(compose(*SIZE, "task.n=4", "seed=1"))
    (other.path / "result.json").write_text("{")
    code, out, err = command("show", "format=json")
    assert (code, err) == (0, "")
    assert sorted(row["state"] for row in json.loads(out)) == ["damaged", "done"]
