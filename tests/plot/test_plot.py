"""From a results tree to figures, tables, listings: everything from the tree alone."""

import csv
import io
import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from indattn import figures
from indattn.config import configs_dir
from indattn.plot.curves import noise
from indattn.plot.plotter import Plotter, recording
from indattn.plot.scores import curve_table, paired, run_table, steps_taken, summary
from indattn.runs import find_runs
from indattn.statistics import mean_interval
from indattn.training import train
from indattn.variants import variants

TINY = ["model.layers=2", "model.width=8", "model.heads=2", "training.batch_size=4", "task.validation_size=8"]
TINY += ["task.test_size=8", "training.steps=4", "training.evaluate_every=2", "device=cpu"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two models, two levels, two seeds of the synthetic task; figure 2's tasks under two readings."""
    results = tmp_path_factory.mktemp("results")
    lines = [
        [f"model={model}", f"noise={noise}", f"seed={seed}", "task.n=4"]
        for model in ("indirect", "standard")
        for noise in (0, 0.5)
        for seed in (0, 1)
    ]
    lines += [
        [f"task={task}", f"model={model}", f"model.self_attention={attention}"]
        for task in ("sorting", "sequence_retrieval")
        for model in ("indirect", "cross")
        for attention in ("true", "false")
    ]
    with initialize_config_dir(str(configs_dir()), version_base="1.3"):
        configs = [hydra_compose("train", overrides=[*line, *TINY]) for line in lines]
    for config in configs:
        config.results_dir = str(results)
        run, _ = train(config)
        (run.path / "model.safetensors").unlink()
        (run.path / "initial.safetensors").unlink()
    return results


@pytest.fixture
def command(command, tree):
    """The command, on the tree."""
    return lambda *arguments: command(*arguments, f"results_dir={tree}")


def test_every_figure_is_drawn_without_weights(command, tree):
    code, out, err = command("plot")
    assert (code, err) == (0, "")
    names = {line.rpartition("/")[2] for line in out.splitlines()}
    for stem in ("noise-synthetic", "curves-synthetic", "curves-sorting", "figure2"):
        assert {f"{stem}.png", f"{stem}.pdf"} <= names
    assert sum(name.startswith("figure3-") and name.endswith(".png") for name in names) == 2 + 2 * 2
    assert sum(name.startswith("attention-") and name.endswith(".png") for name in names) == 2 * 2 + 2 * 2 * 2
    for line in out.splitlines():
        with open(line, "rb") as file:
            assert file.read(4) in (b"\x89PNG", b"%PDF") or line.endswith(".csv")


def test_tables_hold_the_runs_numbers(command, tree):
    assert command("plot", "noise", "task=synthetic")[0] == 0
    table = pd.read_csv(tree / "tables" / "noise-synthetic.csv")
    assert len(table) == 4
    for _, row in table.iterrows():
        runs = find_runs(tree, "synthetic", row["model"], row["noise"])
        scores = [run.result()["test"]["accuracy"] for run in runs]
        assert row["seeds"] == len(scores) == 2
        assert row["accuracy"] == pytest.approx(np.mean(scores), abs=1e-5)
    single = pd.read_csv(tree / "tables" / "noise-synthetic-runs.csv")
    assert len(single) == 8


@pytest.fixture
def noise_files(tree, tmp_path, monkeypatch):
    """Names of the noise figures, and how many runs are in each, of the tree's runs changed in one setting or none."""
    drawn = {}
    monkeypatch.setattr(figures, "noise_curve", lambda table, title: len(table))
    monkeypatch.setattr(Plotter, "save_figure", lambda plotter, count, name: drawn.update({name: count}))

    def names(*variants):
        """A variant is a key, its value, and filters of the runs that it is made from."""
        results = tmp_path / f"results{len(os.listdir(tmp_path))}"
        for number, (key, value, filters) in enumerate(variants):
            for run in find_runs(tree, "synthetic", **filters):
                copy = results / run.path.relative_to(tree).with_name(f"{run.path.name}-{number}")
                shutil.copytree(run.path, copy)
                config = OmegaConf.load(copy / "config.yaml")
                OmegaConf.update(config, key, value)
                OmegaConf.save(config, copy / "config.yaml")
                if key == "misalignment.kind":
                    result = json.loads((copy / "result.json").read_text())
                    (copy / "result.json").write_text(json.dumps({**result, "kind": value}))
        drawn.clear()
        noise(Plotter(find_runs(results), results))
        return drawn.copy()

    return names


DEFAULT, READING = ("model.self_attention", True), ("model.self_attention", False)


def test_the_default_keeps_the_name_of_its_noise_figure(noise_files):
    reading = "noise-synthetic-self_attention-false"
    assert noise_files((*DEFAULT, {})) == {"noise-synthetic": 8}
    assert noise_files((*DEFAULT, {}), (*READING, {})) == {"noise-synthetic": 8, reading: 8}
    assert noise_files((*DEFAULT, {"seed": 0}), (*READING, {})) == {"noise-synthetic": 4, reading: 8}
    assert noise_files((*DEFAULT, {}), (*READING, {"noise": 0})) == {"noise-synthetic": 8}
    assert noise_files((*READING, {})) == {"noise-synthetic": 8}
    kinds = noise_files((*DEFAULT, {}), ("misalignment.kind", "shuffle", {}))
    assert kinds == {"noise-synthetic": 8, "noise-synthetic-kind-shuffle": 8}
    with initialize_config_dir(str(configs_dir()), version_base="1.3"):  # as the command does
        assert noise_files((*DEFAULT, {}), (*READING, {})) == {"noise-synthetic": 8, reading: 8}


def test_without_the_default_most_runs_make_the_plain_noise_figure(noise_files):
    names = noise_files(("training.lr", 0.1, {"seed": 0}), ("training.lr", 0.2, {}))
    assert names == {"noise-synthetic": 8, "noise-synthetic-lr-0.1": 4}


def test_readings_of_figure_2_are_told_apart(tree):
    table = run_table(find_runs(tree, ["sorting", "sequence_retrieval"]))
    assert set(table["variant"]) == {"self_attention=true", "self_attention=false"}
    assert set(run_table(find_runs(tree, "synthetic"))["variant"]) == {""}


def test_steps_to_target_count_unreached_seeds_as_later_than_all_others():
    rows = [
        {
            "model": "a",
            "seed": s,
            "accuracy": 0.5,
            "steps_to_0.9": t,
            "steps": 9,
            "chance": 0.1,
            "ceiling": 1.0,
            "parameters": 1,
            "seconds": 1.0,
        }
        for s, t in enumerate([3.0, np.nan, np.nan])
    ]
    unreached = summary(pd.DataFrame(rows), ["model"]).iloc[0]
    assert unreached["reached_0.9"] == 1
    assert unreached["median_steps_to_0.9"] is None
    rows[1]["steps_to_0.9"] = 6.0
    assert summary(pd.DataFrame(rows), ["model"]).iloc[0]["median_steps_to_0.9"] == 6.0


def test_differences_are_paired_by_seed():
    scores = {("indirect", 0): 0.9, ("indirect", 1): 0.5, ("cross", 0): 0.8, ("cross", 1): 0.4, ("cross", 2): 0.0}
    table = pd.DataFrame([{"task": "t", "model": m, "seed": s, "accuracy": a} for (m, s), a in scores.items()])
    (row,) = paired(table, ["task"]).to_dict("records")
    assert row["difference"] == "indirect - cross"
    assert row["seeds"] == 2
    assert row["mean"] == row["low"] == row["high"] == pytest.approx(0.1)


def test_steps_are_divided_seed_by_seed_and_a_seed_that_never_gets_there_counts_with_all_of_them():
    taken = {("ours", 0): 100, ("ours", 1): 200, ("cross", 0): 400, ("cross", 1): None, ("cross", 2): 50}
    table = pd.DataFrame(
        [{"task": "t", "model": m, "seed": s, "steps_to_0.9": n, "steps": 1600} for (m, s), n in taken.items()]
    )
    rows = steps_taken(table, ["task"])
    own = rows[rows["relative_to"].isna()].set_index("model")
    assert own["steps"].to_dict() == pytest.approx({"ours": 20000**0.5, "cross": (400 * 1600 * 50) ** (1 / 3)})
    assert own.loc["cross", ["least", "most", "seeds"]].tolist() == [50, 1600, 3]
    ratio = rows[(rows["model"] == "ours") & (rows["relative_to"] == "cross")].iloc[0]
    interval = mean_interval(np.log([1 / 4, 1 / 8]).tolist())
    assert ratio["seeds"] == 2
    means = np.exp([interval.mean, interval.low, interval.high])
    assert ratio[["ratio", "low", "high"]].tolist() == pytest.approx(means)
    back = rows[(rows["model"] == "cross") & (rows["relative_to"] == "ours")].iloc[0]
    assert (back["ratio"], back["low"]) == pytest.approx((1 / ratio["ratio"], 1 / ratio["high"]))


def test_noise_curve_draws_each_model_with_labels_and_reference_lines(tree):
    figure = figures.noise_curve(run_table(find_runs(tree, "synthetic")), "title")
    left, right = figure.axes
    labels = left.get_legend_handles_labels()[1]
    assert labels == ["best guess without context", "best achievable", "indirect", "standard"]
    assert "noise" in left.get_xlabel()
    assert "steps" in right.get_ylabel()
    figures.plt.close(figure)


def test_a_single_seed_has_no_band(tree):
    figure = figures.noise_curve(run_table(find_runs(tree, "synthetic", seed=0)), "title")
    for band in figure.axes[0].collections:
        assert all(np.isnan(path.vertices).any() or not len(path.vertices) for path in band.get_paths())
    assert "no interval" in figure.get_suptitle()
    figures.plt.close(figure)


def test_bias_figure_shows_a_panel_a_layer_and_head_before_and_after(tree):
    run = find_runs(tree, "synthetic", "indirect", 0.5, 0)[0]
    before, after = recording(run, "recording_initial"), recording(run)
    figure = figures.bias_curves(before, after, "title")
    assert len(figure.axes) == 2 * 2
    drawn = figure.axes[0].lines[1].get_ydata()
    assert np.ptp(drawn) == pytest.approx(np.ptp(after["bias_function"][0, 0]), rel=1e-5)
    assert not np.array_equal(before["bias_function"], after["bias_function"])
    figures.plt.close(figure)


def test_first_layers_bias_has_no_spread_over_the_data(tree):
    run = find_runs(tree, "synthetic", "indirect", 0.5, 0)[0]
    after = recording(run)
    assert after["bias_std"][0].max() < 1e-6
    np.testing.assert_allclose(after["bias_mean"][0], after["bias_function"][0], atol=1e-5)


def test_curves_hold_every_evaluation(tree):
    runs = find_runs(tree, "synthetic")
    assert len(curve_table(runs)) == 3 * len(runs)  # steps 0, 2, 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plot", "figur2"], "figure2"),
        (["plot", "task=none"], "no finished run matches"),
        (["plot", "noise", "noise=0.5"], "do not make noise"),
        (["plot", "attention", "example=99"], "examples 0 to 3"),
        (["show", "state=finished"], "no such state"),
        (["show", "format=xml"], "format=xml"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(command, arguments, words):
    code, _, err = command(*arguments)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert words in err


def test_show_lists_filters_and_prints(command, tree):
    code, out, _ = command("show", "task=synthetic", "model=[indirect]", "noise=0.5", "format=csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [(row["model"], row["noise"], row["seed"], row["state"]) for row in rows] == [
        ("indirect", "0.5", "0", "done"),
        ("indirect", "0.5", "1", "done"),
    ]
    code, out, _ = command("show", rows[0]["path"], "format=json")
    shown = json.loads(out)
    assert shown["config"]["noise"] == 0.5
    assert shown["result"]["test"]["accuracy"] == float(rows[0]["accuracy"])
    assert [line["step"] for line in shown["metrics"]] == [0, 2, 4]


def test_plotter_ignores_runs_that_are_not_done(tree, tmp_path):
    runs = find_runs(tree, "synthetic")
    result = runs[0].path / "result.json"
    kept = result.read_bytes()
    result.unlink()
    try:
        assert len(Plotter(runs, tmp_path).table) == len(runs) - 1
    finally:
        result.write_bytes(kept)


def test_the_table_of_what_was_tuned_has_validation_scores(command, tree):
    code, _, _ = command("plot", "tuning")
    assert code == 0
    table = pd.read_csv(tree / "tables" / "tuning-sorting.csv")
    runs = find_runs(tree, "sorting")
    assert sorted(table["validation_accuracy"]) == pytest.approx(
        sorted(run.result()["validation"]["accuracy"] for run in runs)
    )
    assert set(table["variant"]) == {"self_attention=true", "self_attention=false"}
    assert not (tree / "tables" / "tuning-synthetic.csv").exists()  # one variant


def test_files_can_have_a_suffix(command, tree):
    code, out, _ = command("plot", "curves", "task=synthetic", "suffix=again", f"results_dir={tree}")
    assert code == 0
    names = {line.rpartition("/")[2] for line in out.splitlines()}
    assert {"curves-synthetic-again.png", "curves-synthetic-again.csv"} <= names
    code, _, err = command("plot", "curves", "suffix=a/b", f"results_dir={tree}")
    assert (code, err) == (2, "indattn: suffix=a/b: must be of letters, digits, - and _\n")


def test_a_choice_that_few_models_have_takes_none_from_its_fellows():
    table = pd.DataFrame({"task": "synthetic", "model": ["indirect", *["indirect_expected"] * 2], "noise": 0.5})
    settings = [{"model.heads": 4}, *({"model.heads": 4, "model.pointer": p} for p in ("plain", "tempered"))]
    assert variants(table, settings) == ["", "", "pointer=tempered"]
    settings[1]["model.heads"] = 8
    assert variants(table, settings) == ["heads=4", "heads=8", "heads=4, pointer=tempered"]


def test_the_same_runs_make_the_same_table_however_they_are_named(tree):
    runs = find_runs(tree, task="synthetic")
    tables = [Plotter(order, tree).table for order in (runs, runs[::-1])]
    pd.testing.assert_frame_equal(*tables)
