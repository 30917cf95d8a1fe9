"""Figures of other lengths and other slips, from results trees written by hand, nothing trained."""

import json

import pandas as pd
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from indattn.config import configs_dir
from indattn.plot.lookups import KINDS, length_table, length_tests, slip_table
from indattn.plot.scores import run_table
from indattn.runs import FORMAT, Run, find_runs, write_json
from indattn.statistics import mean_interval


@pytest.fixture
def write(tmp_path):
    """Writes finished runs of lookup: groups, an accuracy a seed, and accuracies by length."""

    def written(groups, accuracies, by_length=(), noise=1.0):
        for seed, accuracy in enumerate(accuracies):
            with initialize_config_dir(str(configs_dir()), version_base="1.3"):
                given = ["task=lookup", f"noise={noise}", f"seed={seed}", f"results_dir={tmp_path}", *groups]
                config = hydra_compose("train", overrides=given)
            run = Run.of(config)
            run.path.mkdir(parents=True)
            OmegaConf.save(config, run.path / "config.yaml", resolve=True)
            scores = {"accuracy": accuracy, "loss": 1.0, "exact": 0.0}
            kind = config.misalignment.kind
            result = {"format": FORMAT, "kind": kind, "test": scores, "validation": scores, "train_loss": 1.0}
            result |= {"steps_to_0.9": 500 if accuracy > 0.9 else None, "steps": 900, "chance": 0.1, "ceiling": 1.0}
            write_json(run.path / "result.json", result | {"parameters": 1000, "seconds": 1.0, "per_example": [1, 2]})
            (run.path / "metrics.jsonl").write_text(json.dumps({"step": 1, **scores, "train_loss": 1.0}) + "\n")
            for n, by in dict(by_length).items():
                row = {
                    "kind": kind,
                    "noise": noise,
                    "test_seed": 0,
                    "n": n,
                    "accuracy": by + seed / 100,
                    "chance": 1 / n,
                }
                write_json(run.path / "evaluations" / f"{n}.json", row)

    return written


@pytest.fixture
def tree(write, tmp_path):
    write(["model=indirect"], [0.9, 0.8, 0.95], {16: 0.9, 64: 0.2})
    write(["model=indirect_expected"], [0.99, 0.98, 1.0], {16: 0.98, 64: 0.5})
    write(["model=indirect_expected", "model.shift_from=mean"], [0.99, 1.0, 1.0], {16: 0.98, 64: 0.7})
    write(["model=indirect", "misalignment=two_shifts"], [0.3, 0.2, 0.4])
    write(["model=indirect", "misalignment=stretch"], [0.5, 0.2, 0.4], {16: 0.5}, noise=0.5)
    return tmp_path


def test_lengths_are_told_apart_by_model_and_variant(tree):
    tests = length_tests(run_table(find_runs(tree)))
    seeds = tests[(tests["model"] == "indirect") & (tests["n"] == 64)]["accuracy"]
    assert sorted(seeds) == pytest.approx([0.2, 0.21, 0.22])
    table = length_table(tests)
    at = table[(table["kind"] == "shift")].set_index(["model", "n"])
    assert set(at.index.get_level_values(0)) == {"indirect", "indirect_expected", "indirect_expected, shift_from=mean"}
    row = at.loc["indirect_expected, shift_from=mean", 64]
    interval = mean_interval([0.7, 0.71, 0.72])
    assert (row["accuracy"], row["low"], row["high"]) == pytest.approx((interval.mean, interval.low, interval.high))
    assert (row["seeds"], row["trained_n"], row["chance"]) == (3, 16, 1 / 64)


def test_slips_are_in_the_order_of_the_kinds_with_steps(tree):
    runs = run_table(find_runs(tree, noise=1.0))
    table = slip_table(runs[runs["model"] == "indirect"])
    assert table["kind"].tolist() == ["shift", "two_shifts"]
    assert table["reached_0.9"].tolist() == [1, 0]
    assert table["median_steps_to_0.9"].isna().all()
    assert table["accuracy"].tolist() == pytest.approx([2.65 / 3, 0.3])


def test_both_are_drawn(tree, command):
    code, out, error = command("plot", "lengths", "slips", f"results_dir={tree}")
    assert (code, error) == (0, "")
    names = {line.rpartition("/")[2] for line in out.splitlines()}
    stems = ("lengths-lookup-shift-noise-1", "lengths-lookup-stretch-noise-0.5", "slips-lookup-noise-1")
    expected = {stem + end for stem in stems for end in (".png", ".pdf", ".csv")}
    assert names == expected | {f"{stem}-runs.csv" for stem in stems[:2]}
    assert set(pd.read_csv(tree / "tables" / "slips-lookup-noise-1.csv")["kind"]) <= set(KINDS)


def test_runs_without_evaluations_of_lengths_have_no_figure(write, command, tmp_path):
    write(["model=indirect"], [0.9])
    code, _, error = command("plot", "lengths", f"results_dir={tmp_path}")
    assert code == 2
    assert "do not make lengths" in error
