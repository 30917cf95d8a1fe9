"""Scores, and `indattn evaluate` and `indattn show` on finished runs."""

from __future__ import annotations

import csv
import json
import os
import shutil

import pytest
import torch
from hydra import compose as compose_config
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from indattn.build import build_misalignment, build_task
from indattn.config import configs_dir
from indattn.errors import UserError
from indattn.evaluation import evaluate, load_model
from indattn.runs import Run
from indattn.slips import Jitter, Missing
from indattn.training import train

TINY = ["model.layers=1", "model.width=8", "model.heads=2", "task.n=4", "task.values=3", "training.batch_size=8"]
TINY += ["training.steps=8", "training.evaluate_every=4", "task.validation_size=8", "task.test_size=30"]
TINY += ["figures=false", "threads=1", "device=cpu"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Two finished runs, trained once: of indirect at noise 0.5, of standard at noise 0."""
    folder = tmp_path_factory.mktemp("template")
    for overrides in (["model=indirect", "noise=0.5"], ["model=standard"]):
        with initialize_config_dir(str(configs_dir()), version_base="1.3"):
            config = compose_config("train", overrides=[*TINY, *overrides])
        config.results_dir = str(folder)
        train(config)
    return folder


@pytest.fixture
def runs(template, tmp_path):
    """The two runs, of the test's own, below ``results`` in its working folder."""
    shutil.copytree(template / "runs", tmp_path / "results" / "runs")
    return [
        Run(next((tmp_path / "results" / "runs" / "synthetic" / model).glob("*/*/*")))
        for model in ("indirect", "standard")
    ]


def read_csv(text):
    return list(csv.DictReader(text.splitlines()))


# Scores --------------------------------------------------------------------------------------------------------


def loaded(run):
    config = run.config()
    task = build_task(config)
    return load_model(run, task, config), task, task.split("test", build_misalignment(config, task))


def test_a_stored_model_scores_what_its_result_says(runs):
    for run in runs:
        model, task, split = loaded(run)
        scores, result = task.score(model, split, CPU), run.result()
        assert scores.per_example == result["per_example"]
        assert scores.accuracy == result["test"]["accuracy"]
        assert scores.loss == pytest.approx(result["test"]["loss"], rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 30, 1000])
def test_scores_do_not_depend_on_the_batches(runs, batch_size):
    model, task, split = loaded(runs[0])
    whole, parts = task.score(model, split, CPU), task.score(model, split, CPU, batch_size)
    assert parts.per_example == whole.per_example
    assert (parts.accuracy, parts.more) == (whole.accuracy, whole.more)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_scoring_leaves_the_mode_the_gradients_and_the_generator_alone(runs, training):
    model, task, split = loaded(runs[0])
    model.train(training)
    before = torch.get_rng_state()
    task.score(model, split, CPU)
    assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), before)


def test_scoring_drops_nothing_out(runs):
    config = OmegaConf.merge(runs[0].config(), {"model": {"dropout": 0.5}})
    task = build_task(config)
    model = load_model(runs[0], task, config).train()
    split = task.split("test", build_misalignment(config, task))
    assert task.score(model, split, CPU).per_example == runs[0].result()["per_example"]


def test_load_model_of_a_kept_step(runs):
    config = runs[0].config()
    task = build_task(config)
    initial, final = (load_model(runs[0], task, config, f"{name}.safetensors") for name in ("initial", "model"))
    assert any(not torch.equal(a, b) for a, b in zip(initial.parameters(), final.parameters(), strict=True))
    with pytest.raises(UserError, match=r"step-3\.safetensors: no such checkpoint"):
        load_model(runs[0], task, config, "step-3.safetensors")


# evaluate ------------------------------------------------------------------------------------------------------


def test_evaluate_at_the_own_level_repeats_the_result(runs):
    for run in runs:
        (row,) = evaluate(run, None, None, [0], CPU)
        result = run.result()
        assert row["accuracy"] == row["training_accuracy"] == result["test"]["accuracy"]
        assert row["exact"] == result["test"]["exact"]
        assert (row["kind"], row["noise"]) == ("shift", run.config().noise)
        (file,) = run.path.glob("evaluations/*")
        stored = json.loads(file.read_text())
        assert stored["per_example"] == result["per_example"]
        assert stored["accuracy"] == result["test"]["accuracy"]
        assert stored["trained_noise"] == run.config().noise
        assert run.evaluations() == [stored]


def test_the_own_kind_keeps_the_options_it_was_trained_with():
    overrides = ["task=lookup", "misalignment=jitter", "misalignment.shift=1", "noise=1"]
    with initialize_config_dir(str(configs_dir()), version_base="1.3"):
        config = compose_config("train", overrides=overrides)
    task = build_task(config)
    assert build_misalignment(config, task, "jitter", 0.5) == Jitter(noise=0.5, shift=1.0)
    assert build_misalignment(config, task, "missing", 0.5) == Missing(noise=0.5)


def test_evaluate_over_levels_kinds_and_test_sets(runs, command, tmp_path):
    run = runs[0]
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    arguments = ["noise=[0,0.5,1]", "kind=[shift,shuffle]", "test_seed=[0,3]", "format=csv"]
    code, out, err = command("evaluate", str(run.path.relative_to(tmp_path)), *arguments)
    assert (code, err) == (0, "")
    rows = read_csv(out)
    cases = {(row["kind"], float(row["noise"]), int(row["test_seed"])) for row in rows}
    assert cases == {(k, x, s) for k in ("shift", "shuffle") for x in (0, 0.5, 1) for s in (0, 3)}
    assert len(rows) == 12
    assert {row["trained_kind"] for row in rows} == {"shift"}
    assert {float(row["trained_noise"]) for row in rows} == {0.5}
    stored = {(e["kind"], e["noise"], e["test_seed"]): e for e in run.evaluations()}
    assert len(stored) == 12
    for row in rows:
        kept = stored[row["kind"], float(row["noise"]), int(row["test_seed"])]
        assert float(row["accuracy"]) == kept["accuracy"] == pytest.approx(sum(kept["per_example"]) / (30 * 4))
    by_level = [stored["shift", x, 0]["per_example"] for x in (0, 0.5, 1)]
    assert len({tuple(scores) for scores in by_level}) > 1, "another level must be another test set"
    assert stored["shift", 0.5, 0]["per_example"] != stored["shift", 0.5, 3]["per_example"]
    assert stored["shift", 0.5, 0]["ceiling"] == 1
    assert stored["shuffle", 1, 0]["ceiling"] < 1
    after = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    assert after == before, "the run itself must stay as it was"
    assert {path.name for path in tmp_path.iterdir()} == {"results"}


def test_evaluate_can_use_a_kind_the_run_was_not_trained_with(runs):
    (row,) = evaluate(runs[0], [0.5], ["additive"], [0], CPU)
    assert (row["kind"], row["trained_kind"]) == ("additive", "shift")


def test_evaluate_several_runs_at_once(runs, command):
    code, out, _ = command("evaluate", *(str(run.path) for run in runs), "format=json")
    assert code == 0
    rows = json.loads(out)
    assert [(row["model"], row["accuracy"]) for row in rows] == [
        (model, run.result()["test"]["accuracy"]) for model, run in zip(("indirect", "standard"), runs, strict=True)
    ]


def test_scores_of_the_validation_split_are_those_of_training_and_are_not_kept(runs, command):
    code, out, _ = command("evaluate", str(runs[0].path), "split=validation", "format=json")
    assert code == 0
    [row] = json.loads(out)
    assert row["split"] == "validation"
    assert row["accuracy"] == runs[0].metrics()[-1]["accuracy"]
    assert runs[0].evaluations() == []


def test_evaluate_twice_is_the_same(runs):
    first, second = (evaluate(runs[0], [0, 1], ["shuffle"], [0, 1], CPU) for _ in range(2))
    assert first == second
    assert len(runs[0].evaluations()) == 4


def test_levels_that_round_to_the_same_name_are_both_kept(runs):
    evaluate(runs[0], [0.12, 0.123], None, [0], CPU)
    assert sorted(e["noise"] for e in runs[0].evaluations()) == [0.12, 0.123]


def test_evaluate_prints_a_table_with_the_scores(runs, command):
    code, out, _ = command("evaluate", str(runs[0].path), "noise=[0,1]")
    assert code == 0
    assert "Test scores" in out
    assert out.count("indirect") == 2


@pytest.mark.parametrize("name", ["with space", "a=b", "quote'd", "comma,ted", "br[ack]et", "ünï"])
def test_evaluate_a_run_in_a_folder_with_a_difficult_name(runs, command, tmp_path, name):
    (tmp_path / "results").rename(tmp_path / name)
    path = tmp_path / name / runs[0].path.relative_to(tmp_path / "results")
    code, out, err = command("evaluate", str(path), "format=csv")
    assert (code, err) == (0, "")
    assert len(read_csv(out)) == 1


# show ----------------------------------------------------------------------------------------------------------


def shown(command, *filters):
    code, out, err = command("show", *filters, "format=csv")
    assert (code, err) == (0, "")
    return read_csv(out)


def test_show_lists_every_run(runs, command, tmp_path):
    rows = shown(command)
    assert [(row["model"], float(row["noise"]), row["state"]) for row in rows] == [
        ("indirect", 0.5, "done"),
        ("standard", 0.0, "done"),
    ]
    for row, run in zip(rows, runs, strict=True):
        assert float(row["accuracy"]) == run.result()["test"]["accuracy"]
        assert row["path"] == str(run.path.relative_to(tmp_path))
    code, out, _ = command("show")
    assert code == 0
    assert "indirect" in out
    assert "standard" in out


@pytest.mark.parametrize(
    ("filters", "models"),
    [
        (["task=synthetic"], ["indirect", "standard"]),
        (["task=sorting"], []),
        (["model=standard"], ["standard"]),
        (["model=[indirect,standard]"], ["indirect", "standard"]),
        (["noise=0.5"], ["indirect"]),
        (["noise=[0,1]"], ["standard"]),
        (["seed=0"], ["indirect", "standard"]),
        (["seed=1"], []),
        (["state=done"], ["indirect", "standard"]),
        (["state=unfinished"], []),
        (["task=synthetic", "noise=0.5", "state=done"], ["indirect"]),
        (["results_dir=nowhere"], []),
    ],
    ids=lambda value: " ".join(value),
)
def test_show_filters(runs, command, filters, models):
    assert [row["model"] for row in shown(command, *filters)] == models


def test_show_tells_states_apart(runs, command):
    for name in ("result.json", "model.safetensors"):
        (runs[0].path / name).unlink()
    assert [row["state"] for row in shown(command)] == ["started", "done"]
    (runs[0].path / "trainer.pt").write_bytes(b"")
    assert [row["state"] for row in shown(command)] == ["unfinished", "done"]


def test_show_one_run(runs, command):
    run = runs[0]
    code, out, err = command("show", str(run.path))
    assert (code, err) == (0, "")
    assert f"{run.path}: done" in out
    assert "noise: 0.5" in out
    assert '"per_example"' not in out
    assert [int(row["step"]) for row in read_csv(command("show", str(run.path), "format=csv")[1])] == [0, 4, 8]
    printed = json.loads(command("show", str(run.path), "format=json")[1])
    assert printed["result"]["test"] == run.result()["test"]
    assert [line["step"] for line in printed["metrics"]] == [0, 4, 8]


def test_show_in_an_empty_folder_says_so(command, tmp_path):
    code, out, err = command("show")
    assert (code, err) == (0, "")
    assert "no run" in out
    assert os.listdir(tmp_path) == []


# Other lengths -------------------------------------------------------------------------------------------------

LOOKUP = ["task=lookup", "task.n=4", "task.asked=2", "task.symbols=12", "task.room=4", "task.queries=7"]


def test_another_length_is_scored_by_the_same_weights(tmp_path):
    with initialize_config_dir(str(configs_dir()), version_base="1.3"):
        config = compose_config("train", overrides=[*LOOKUP, *TINY, "noise=1", "model=indirect_expected"])
    config.results_dir = str(tmp_path)
    train(config)
    run = Run(next(tmp_path.glob("runs/lookup/*/*/*/*")))
    rows = evaluate(run, None, None, [0], CPU, lengths=[None, 4, 9])
    assert [row.get("n") for row in rows] == [None, 4, 9]
    assert rows[1]["accuracy"] == rows[0]["accuracy"] == run.result()["test"]["accuracy"]
    config.task.n = 9
    longer = build_task(config)
    split = longer.split("test", build_misalignment(config, longer))
    scores = longer.score(load_model(run, longer, config), split, CPU)
    assert rows[2]["loss"] == scores.loss
    assert rows[2]["chance"] == longer.chance()
    assert sorted(e.get("n", 0) for e in run.evaluations()) == [0, 4, 9]


def test_a_model_of_one_length_is_not_asked_for_others(runs):
    with pytest.raises(UserError, match="n=8: models of task synthetic read the length alone"):
        evaluate(runs[0], None, None, [0], CPU, lengths=[8])
