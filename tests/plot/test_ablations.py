"""Readings of figure 2 and ablations: tables and figures from results trees written by hand, nothing trained."""

import functools
import json

import numpy as np
import pandas as pd
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from indattn.config import config_hash, configs_dir
from indattn.misalignment import Shift
from indattn.plot import ablations, readings
from indattn.plot.scores import run_table
from indattn.runs import FORMAT, Run, find_runs, write_json
from indattn.statistics import mean_interval
from indattn.store import add_records
from indattn.tasks import Synthetic
from indattn.tasks.base import batch_generator
from indattn.unmatched import Unmatched


@functools.cache
def configuration(*overrides):
    with initialize_config_dir(str(configs_dir()), version_base="1.3"):
        return OmegaConf.to_container(hydra_compose("train", overrides=list(overrides)), resolve=True)


@pytest.fixture
def write(tmp_path):
    """Writes finished runs: groups, plain values, and an accuracy a seed."""

    def written(groups, values, accuracies, reached=None, evaluations=()):
        for seed, accuracy in enumerate(accuracies):
            config = OmegaConf.create(configuration(*groups))
            for key, value in {**values, "seed": seed, "results_dir": str(tmp_path)}.items():
                OmegaConf.update(config, key, value)
            run = Run.of(config)
            assert run.path.name == config_hash(config)
            run.path.mkdir(parents=True)
            OmegaConf.save(config, run.path / "config.yaml")
            scores = {"accuracy": accuracy, "loss": 1.0, "exact": 0.0}
            result = {"format": FORMAT, "kind": config.misalignment.kind, "test": scores, "validation": scores}
            result |= {"train_loss": 1.0, "steps_to_0.9": reached, "steps": config.training.steps, "chance": 0.1}
            result |= {"ceiling": 1.0, "parameters": 1000, "seconds": 1.0, "per_example": [1, 2]}
            write_json(run.path / "result.json", result)
            line = {"step": 1, "accuracy": accuracy, "loss": 1.0, "train_loss": 1.0}
            (run.path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
            for level, score, loss in evaluations:
                row = {"kind": "unmatched", "noise": level, "test_seed": 0, "accuracy": score, "loss": loss}
                write_json(run.path / "evaluations" / f"{level}.json", row)

    return written


# Readings ----------------------------------------------------------------------------------------------------

HIGH, LOW = [0.9, 0.92, 0.91, 0.93, 0.9], [0.5, 0.51, 0.53, 0.5, 0.52]
FRESH = {"task.train_size": None, "training.steps": 2500, "training.evaluate_every": 125}


@pytest.fixture
def read(write, tmp_path):
    """Sorting: the order holds with fixed pairs and fails with fresh ones; retrieval: only one other, one seed."""
    for model, scores in {"indirect": HIGH, "standard": LOW, "cross": LOW}.items():
        write(["task=sorting", f"model={model}"], {}, scores)
    write(["task=sorting", "model=indirect"], {"model.centre_update": "none"}, [0.4, 0.6, 0.5, 0.6, 0.5])
    for model, scores in {"indirect": LOW, "standard": LOW[::-1], "cross": HIGH}.items():
        write(["task=sorting", f"model={model}"], {**FRESH, "model.norm": "post"}, scores)
    for model in ("indirect", "cross"):
        write(["task=sequence_retrieval", f"model={model}"], {"model.self_attention": False}, [0.5])
    # What is no reading: another learning rate, another level.
    write(["task=sorting", "model=indirect"], {"training.lr": 0.1}, [0.0] * 5)
    write(["task=sorting", "model=indirect"], {"noise": 0.5}, [0.0] * 5)
    return readings.by_reading(run_table(find_runs(tmp_path)))


def test_readings_say_where_the_order_holds(read):
    columns = ["task", "train_size", "norm", "self_attention", "centre_update", "order"]
    assert read[columns].to_numpy().tolist() == [
        ["sorting", "1000", "pre", "true", "additive", "holds"],
        ["sorting", "1000", "pre", "true", "none", "undecided"],
        ["sorting", "fresh", "post", "true", "additive", "fails"],
        ["sequence_retrieval", "1000", "pre", "false", "additive", "undecided"],
    ]
    assert read["steps"].tolist() == [500, 500, 2500, 500]
    assert read["less_standard_seeds"].tolist() == [5, 5, 5, 0]
    assert read["cross_seeds"].tolist() == [5, 5, 5, 1]


def test_differences_of_readings_are_paired_by_seed(read):
    expected = mean_interval([a - b for a, b in zip(HIGH, LOW, strict=True)])
    first = read.iloc[0]
    assert (first["less_cross"], first["less_cross_low"]) == pytest.approx((expected.mean, expected.low))
    assert first["indirect"] == pytest.approx(np.mean(HIGH))
    # The others have no centre update: both of indirect's are compared with the same runs.
    assert read["cross"][0] == read["cross"][1]


def test_few_seeds_decide_nothing():
    assert [readings.sign(0.1, 0.2, seeds) for seeds in (1, 4, 5)] == ["undecided", "undecided", "higher"]
    assert readings.sign(-0.2, -0.1, 5) == "lower"
    assert readings.sign(float("nan"), float("nan"), 5) == readings.sign(-0.1, 0.1, 10) == "undecided"


def test_the_figure_of_readings_from_the_record_alone(read, command, tmp_path):
    runs = find_runs(tmp_path)
    code, _, error = command("plot", "readings", f"results_dir={tmp_path}")
    assert (code, error) == (0, "")
    add_records(tmp_path, runs)
    (tmp_path / "only").mkdir()
    (tmp_path / "records").rename(tmp_path / "only" / "records")
    assert command("plot", "readings", f"results_dir={tmp_path / 'only'}")[0] == 0
    one, other = ((tree / "tables" / "readings.csv").read_bytes() for tree in (tmp_path, tmp_path / "only"))
    assert one == other
    assert (tmp_path / "only" / "figures" / "readings.png").is_file()


def test_no_readings_without_the_two_sides(write, tmp_path, command):
    write(["task=sorting", "model=indirect"], {}, HIGH)
    code, _, error = command("plot", "readings", f"results_dir={tmp_path}")
    assert (code, error.count("\n")) == (2, 1)
    assert readings.by_reading(pd.DataFrame()).empty


# Ablations ---------------------------------------------------------------------------------------------------

AT = ["task=synthetic", "noise=0.5"]
ROLES = ["content", "queries", "context"]


@pytest.fixture
def ablated(write, tmp_path):
    write([*AT, "model=indirect"], {}, HIGH, reached=300, evaluations=[(0.5, 0.5, 2.0), (1, 0.1, 5.0)])
    write([*AT, "model=indirect"], {"model.shared_bias": True}, [x - 0.1 for x in HIGH], reached=400)
    write([*AT, "model=indirect"], {"model.heads": 8}, [*HIGH[:4], 0.0])
    write([*AT, "model=indirect"], {"model.heads": 1}, HIGH[:3])
    write([*AT, "model=standard"], {}, LOW)
    write([*AT, "model=assigned"], {"model.roles": ROLES}, LOW, evaluations=[(0.5, 0.2, 2.5)])
    # What is no single change of the model, or at another level.
    write([*AT, "model=indirect"], {"model.heads": 8, "model.layers": 1}, LOW)
    write([*AT, "model=standard"], {"model.heads": 8}, LOW)
    write([*AT, "model=indirect"], {"training.lr": 0.1}, LOW)
    write(["task=synthetic", "noise=0", "model=standard"], {}, LOW)
    write(["task=synthetic", "noise=0", "model=indirect"], {}, LOW)
    return run_table(find_runs(tmp_path, noise=0.5))


def test_one_change_at_a_time(ablated):
    changed = ablations.changes(ablated)
    counts = changed.groupby("change")["seed"].nunique().to_dict()
    roles = "q, k, v from content, queries, context"
    assert counts == {
        ablations.BASE: 5,
        "shared_bias=true": 5,
        "heads=8": 5,
        "heads=1": 3,
        "standard": 5,
        roles: 5,
    }
    table = ablations.summary(changed)
    assert table["change"].tolist() == [
        ablations.BASE,
        "no bias f (standard)",
        "one f for all layers",
        "1 head",
        "8 heads",
        roles,
    ]
    assert table["pairs"].tolist() == [0, 5, 5, 3, 5, 5]
    shared = table.set_index("setting").loc["shared_bias=true"]
    assert shared[["difference", "difference_low", "difference_high"]].tolist() == pytest.approx([-0.1] * 3)
    assert (shared["reached_0.9"], shared["median_steps_to_0.9"]) == (5, 400)
    bias = table.set_index("setting").loc["standard"]
    expected = mean_interval([b - a for a, b in zip(HIGH, LOW, strict=True)])
    assert (bias["difference"], bias["difference_high"]) == pytest.approx((expected.mean, expected.high))


def test_ablations_are_drawn_where_there_are_some(ablated, command, tmp_path):
    code, out, error = command("plot", "ablations", f"results_dir={tmp_path}")
    assert (code, error) == (0, "")
    names = {line.rpartition("/")[2] for line in out.splitlines()}
    assert names == {f"ablations-synthetic{end}" for end in (".png", ".pdf", ".csv", "-unmatched.csv")}
    table = pd.read_csv(tmp_path / "tables" / "ablations-synthetic-unmatched.csv")
    assert table["replaced"].tolist() == [0, 0.5, 1, 0, 0.5]
    assert table["loss"].tolist() == [1, 2, 5, 1, 2.5]
    assert table["seeds"].tolist() == [5] * 5


def test_parts_of_expected_centres_are_compared_with_these(write, command, tmp_path):
    write([*AT, "model=indirect_expected"], {}, HIGH)
    write([*AT, "model=indirect_expected"], {"model.shift_from": "mean"}, LOW)
    write([*AT, "model=indirect_expected"], {"model.carried": True, "model.gate": "open"}, LOW)
    write([*AT, "model=indirect"], {}, LOW)
    changed = ablations.changes(run_table(find_runs(tmp_path)), "indirect_expected")
    assert set(changed["change"]) == {ablations.BASE, "shift_from=mean", "indirect"}
    assert ablations.summary(changed)["change"].tolist() == [ablations.BASE, "one shift for all queries", "indirect"]
    code, out, error = command("plot", "ablations", f"results_dir={tmp_path}")
    assert (code, error) == (0, "")
    assert "ablations-indirect_expected-synthetic.png" in out
    assert "ablations-synthetic" not in out


def test_other_models_alone_are_no_ablation(ablated):
    assert ablations.changes(ablated[ablated["model"] == "standard"]).empty
    default = ablated[ablated["path"].isin(ablations.changes(ablated).query("change == @ablations.BASE")["path"])]
    assert ablations.changes(pd.concat([default, ablated[ablated["model"] == "standard"]])).empty


# A context that matches nothing ------------------------------------------------------------------------------

TASK = Synthetic(n=8, values=1000)


def test_unmatched_without_replaced_symbols_is_the_shift_of_training():
    one, other = (TASK.split("test", kind) for kind in (Unmatched(0.0, shift=0.5), Shift(0.5)))
    assert all(np.array_equal(one[key], other[key]) for key in one.keys() | other.keys())


def test_unmatched_replaces_symbols_of_the_context_alone():
    before = TASK.sample(500, batch_generator("bound"))
    after = Unmatched(0.5, shift=0.0).apply(before, TASK.layout, batch_generator("bound", 1))
    assert np.array_equal(after["content"], before["content"])
    assert np.array_equal(after["targets"], before["targets"])
    changed = (after["context"] != before["context"])[:, 1:].double().mean().item()
    assert changed == pytest.approx(0.5 * 7 / 8, abs=0.03)
    assert (after["context"][:, 0] == before["context"][:, 0]).all()


def test_unmatched_is_for_the_synthetic_task_and_its_shift_is_a_level(command):
    for overrides, said in (
        (["misalignment=unmatched", "task=sorting"], "misalignment=unmatched: task sorting has corrupt, additive"),
        (["misalignment=unmatched", "misalignment.shift=2"], "misalignment.shift=2"),
    ):
        code, _, error = command("train", *overrides)
        assert (code, error.count("\n")) == (2, 1)
        assert said in error


def test_another_model_of_other_settings_is_no_ablation(write, tmp_path):
    write(["model=indirect"], {}, HIGH)
    write(["model=indirect"], {"model.shared_bias": True}, HIGH)
    write(["model=standard"], {}, LOW)
    write(["model=standard"], {"model.layers": 1, "model.heads": 1}, [0.1] * 5)
    table = ablations.summary(ablations.changes(run_table(find_runs(tmp_path)))).set_index("setting")
    assert table.loc["standard", "accuracy"] == pytest.approx(np.mean(LOW))


def test_a_reading_of_another_bias_is_none_of_the_paper_s(write, tmp_path):
    for model, scores in {"indirect": HIGH, "standard": LOW, "cross": LOW}.items():
        write(["task=sorting", f"model={model}"], {}, scores)
    write(["task=sorting", "model=indirect"], {"model.bias": "gaussian"}, [0.1] * 5)
    [row] = readings.by_reading(run_table(find_runs(tmp_path))).to_dict("records")
    assert (row["indirect"], row["order"]) == (pytest.approx(np.mean(HIGH)), "holds")
