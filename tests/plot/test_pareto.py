"""Scores against operations of training, from made-up runs."""

import json

import pandas as pd
import pytest
from omegaconf import OmegaConf

from indattn.plot.pareto import on_front, pareto_table
from indattn.runs import Run


def test_the_front_is_what_nothing_dominates():
    #        cheap and poor, dominated, a tie in score at more cost, dear and best, as dear and worse
    costs, scores = [1.0, 2.0, 3.0, 4.0, 4.0], [0.5, 0.4, 0.5, 0.9, 0.8]
    assert on_front(costs, scores) == [True, False, False, True, False]
    assert on_front(costs[::-1], scores[::-1]) == [False, True, False, False, True]
    assert on_front([], []) == []


def test_costs_that_are_alike_are_one_cost():
    assert on_front([100.0, 100.5], [0.5, 0.6]) == [False, True]
    assert on_front([100.0, 100.5], [0.5, 0.6], alike=0) == [True, True]
    assert on_front([100.0, 102.0], [0.5, 0.6]) == [True, True]
    assert on_front([100.0, 100.5], [0.6, 0.6]) == [True, True]


def test_operations_are_compared_on_the_same_seeds():
    rows = [("cross", 0, 10.0), ("cross", 1, 99.0), ("indirect", 0, 12.0)]
    runs = pd.DataFrame([
        {"model": model, "noise": 0.5, "seed": seed, "accuracy": 0.5 + seed / 10, "gflops": cost, "parameters": 7}
        for model, seed, cost in rows
    ])  # fmt: skip
    table = pareto_table(runs).set_index("model")
    assert table["gflops"].to_dict() == {"cross": 10.0, "indirect": 12.0}
    assert table["seeds"].to_dict() == {"cross": 2, "indirect": 1}
    assert table["score"].to_dict() == pytest.approx({"cross": 0.55, "indirect": 0.5})
    assert table["on_front"].to_dict() == {"cross": True, "indirect": False}


SCORES = {  # by model: operations a step, and by noise the mean of two seeds that are 0.02 apart
    "cross": (1e9, {0.0: 0.9, 0.5: 0.6}),
    "indirect": (2e9, {0.0: 0.95, 0.5: 0.55}),
    "fusion": (2e9, {0.0: 0.3, 0.5: 0.5}),
}


@pytest.fixture
def made_up(compose, tmp_path):
    """Finished runs of a task, as `indattn plot` reads them: no weights, no curves."""

    def make(task, **test):
        for model, (flops, levels) in SCORES.items():
            for noise, mean in levels.items():
                for seed in (0, 1):
                    config = compose(f"task={task}", f"model={model}", f"noise={noise}", f"seed={seed}")
                    run = Run.of(config)
                    run.path.mkdir(parents=True)
                    OmegaConf.save(config, run.path / "config.yaml", resolve=True)
                    score = {"accuracy": mean + (seed - 0.5) * 0.02, **test}
                    result = {
                        "format": 1, **run.labels, "kind": config.misalignment.kind, "steps": 500, "test": score,
                        "steps_to_0.9": None, "validation": score, "train_loss": 1.0, "chance": 0.1, "ceiling": 1.0,
                        "parameters": 1000, "flops_per_step": flops, "seconds": 1.0,
                    }  # fmt: skip
                    (run.path / "result.json").write_text(json.dumps(result))
        return tmp_path / "results"

    return make


@pytest.mark.parametrize(
    ("task", "test"), [("synthetic", {}), ("speech_text_alignment", {"start_median_ms": 30.0})], ids=str
)
def test_table_and_figure_of_made_up_runs(made_up, command, task, test):
    results = made_up(task, **test)
    code, out, err = command("plot", "pareto", f"results_dir={results}")
    assert (code, err) == (0, "")
    assert {line.rpartition("/")[2] for line in out.splitlines()} == {
        f"pareto-{task}.{e}" for e in ("png", "pdf", "csv")
    }
    table = pd.read_csv(results / "tables" / f"pareto-{task}.csv")
    assert list(table) == ["model", "noise", "seeds", "gflops", "parameters", "score", "low", "high", "on_front"]
    for row in table.to_dict("records"):
        flops, levels = SCORES[row["model"]]
        assert (row["seeds"], row["gflops"]) == (2, 500 * flops / 1e9)
        assert row["score"] == pytest.approx(levels[row["noise"]])
        assert row["low"] < row["score"] < row["high"]
    front = {(row["model"], row["noise"]) for row in table.to_dict("records") if row["on_front"]}
    assert front == {("cross", 0.0), ("indirect", 0.0), ("cross", 0.5)}


def test_runs_that_count_no_operations_or_have_no_rival_make_no_figure(made_up, command):
    results = made_up("synthetic")
    assert command("plot", "pareto", f"results_dir={results}", "model=cross")[0] == 2
    for file in results.glob("runs/synthetic/indirect/**/result.json"):
        result = json.loads(file.read_text())
        del result["flops_per_step"]
        file.write_text(json.dumps(result))
    assert command("plot", "pareto", f"results_dir={results}")[0] == 0
    assert set(pd.read_csv(results / "tables" / "pareto-synthetic.csv")["model"]) == {"cross", "fusion"}
