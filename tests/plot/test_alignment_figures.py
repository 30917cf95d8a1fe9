"""Tables and figures of speech-text alignment, from results trees written by hand."""

import functools
import json
import zlib

import numpy as np
import pandas as pd
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from indattn import figures
from indattn.alignment.scores import METRICS, word_errors
from indattn.config import configs_dir
from indattn.errors import UserError
from indattn.plot import alignment_figures
from indattn.plot.alignment_results import baselines, placed
from indattn.plot.alignment_tables import alignment, cumulative, differences, summary
from indattn.plot.curves import noise as noise_figures
from indattn.plot.plotter import Plotter
from indattn.plot.scores import curve_table, run_table
from indattn.runs import FORMAT, find_runs, write_json
from indattn.statistics import mean_interval
from indattn.tasks.speech_text_alignment import SpeechTextAlignment

TASK = "speech_text_alignment"
CORPUS = {"data": "synthetic", "fingerprint": "0123456789abcdef"}
OTHER = {"data": "somewhere/mine", "fingerprint": "fedcba9876543210"}
WORDS = 40
LABELS = ("variant", "noise", "title")


@functools.cache
def configuration(*overrides):
    with initialize_config_dir(str(configs_dir()), version_base="1.3"):
        return OmegaConf.to_container(hydra_compose("train", overrides=[f"task={TASK}", *overrides]), resolve=True)


def scores(generator, size, lost=0.0, corpus=0):
    """What a test leaves: errors of about ``size`` ms, a share of the words not placed."""
    utterance = np.sort(np.random.default_rng(corpus).integers(0, 8, WORDS))
    utterance = np.unique(utterance, return_inverse=True)[1]
    there = np.bincount(utterance)
    seconds = np.linspace(2, 4, len(there))
    true = [np.linspace(0.1, 1.9, 2 * count).reshape(-1, 2) for count in there]
    found = [times + generator.laplace(0, size / 1000, times.shape) for times in true]
    for times in found:
        times[generator.random(len(times)) < lost] = np.nan
    errors = word_errors(true, found, seconds)
    signed = 1000 * (np.concatenate(found) - np.concatenate(true))
    listed = [[None if np.isnan(x) else round(x, 1) for x in signed[:, k]] for k in range(2)]
    words = {"utterance": utterance.tolist(), "start": listed[0], "end": listed[1]}
    return {"accuracy": errors.metric("start_within_50"), "loss": 1.0, **errors.summary()}, words


def write(results, model, noise, seed, test, *overrides, other=None):
    """A finished run, and maybe its test on another corpus; what ``other`` says replaces what that test says."""
    config = {**configuration(f"model={model}", *overrides), "noise": noise, "seed": seed}
    digest = f"{zlib.crc32(repr(overrides).encode()):08x}"
    path = results / "runs" / TASK / model / f"noise-{noise:.2f}" / f"seed-{seed}" / digest
    path.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(config), path / "config.yaml")
    metrics, words = test
    result = {
        **{"format": FORMAT, "kind": "drift", "metric": SpeechTextAlignment.metric, "steps": 2, "steps_to_0.9": None},
        **{"test": metrics, "validation": metrics, "train_loss": 1.0, "chance": None, "ceiling": None},
        **{"parameters": 1000, "seconds": 2.0, "corpus": CORPUS, "per_example": words},
    }
    write_json(path / "result.json", result)
    lines = [{"step": step, "accuracy": 0.1 * step, "loss": 1.0, "train_loss": 1.0} for step in (0, 1, 2)]
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    if other is not None:
        metrics, words = scores(np.random.default_rng([seed, 9]), 80, corpus=1)
        row = {"kind": "drift", "noise": noise, "test_seed": 0, "data": OTHER["data"], "corpus": OTHER, **metrics}
        write_json(path / "evaluations" / "mine.json", {**row, "per_example": words, **other})
    return path


def grown(results, models=("indirect", "standard"), levels=(0.0, 0.5), seeds=(0, 1), others=True, lost=0.1):
    """Runs of the formulations centres and pointer; in the second words are lost."""
    generator = np.random.default_rng(0)
    for model in models:
        for noise in levels:
            for seed in seeds:
                test = scores(generator, 20 + 60 * noise)
                write(results, model, noise, seed, test, other={} if others else None)
                test = scores(generator, 10 + 40 * noise, lost)
                write(results, model, noise, seed, test, "task.formulation=pointer")
    return results


def beside(results, data="synthetic", levels=(0.0, 0.5)):
    """The table of aligners without a network."""
    rows = [
        {"data": data, "baseline": name, "noise": level}
        | {
            f"{metric}{end}": 30.0 * (metric.endswith("ms")) + 0.4
            for metric in METRICS
            for end in ("", "_low", "_high")
        }
        for name in ("linear", "dtw", "another")
        for level in levels
    ]
    path = results / "tables" / "alignment-baselines.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return grown(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def found(tree):
    return placed(Plotter(find_runs(tree), tree))


@pytest.fixture
def quick(monkeypatch):
    """Figures as PNG alone."""
    monkeypatch.setattr(figures, "save", functools.partial(figures.save, formats=("png",)))


def of(table, **values):
    """Rows with these values."""
    return table[np.logical_and.reduce([table[key] == value for key, value in values.items()])]


def results_of(tree, model, noise, formulation):
    """Results by seed."""
    runs = [run for run in find_runs(tree, TASK, model, noise) if run.config().task.formulation == formulation]
    return [run.result() for run in runs]


# Tables --------------------------------------------------------------------------------------------------------


def test_the_table_holds_means_and_intervals_over_seeds_of_every_metric(tree, found):
    table = summary(found)
    for formulation in ("centres", "pointer"):
        row = of(table, data="synthetic", formulation=formulation, model="indirect", noise=0.5).iloc[0]
        results = results_of(tree, "indirect", 0.5, formulation)
        assert row["seeds"] == len(results) == 2
        for metric in METRICS:
            interval = mean_interval([result["test"][metric] for result in results])
            numbers = row[[metric, f"{metric}_low", f"{metric}_high"]].tolist()
            assert numbers == pytest.approx([interval.mean, interval.low, interval.high], nan_ok=True)
        for metric in ("start_median_ms", "start_mean_ms", "start_within_50"):
            assert row[f"{metric}_crossed_low"] <= row[metric] <= row[f"{metric}_crossed_high"]
    assert row["not_placed"] > 0
    other = of(table, data="mine")
    assert set(other["formulation"]) == {"centres"}
    assert set(other["trained_data"]) == {"synthetic"}
    assert set(table["variant"]) == {""}


def test_words_that_are_not_placed_have_the_error_that_the_mean_gives_them(found):
    one = next(one for one in found if np.isnan(one.start).any())
    assert one.errors.mean() == pytest.approx(one.metrics["start_mean_ms"])
    assert np.median(one.errors) == pytest.approx(one.metrics["start_median_ms"], abs=0.1)
    assert (one.errors[np.isnan(one.start)] > 1000).all()
    assert one.shares[-1] < 1


def test_differences_are_paired_by_seed(tree, found):
    table = differences(found)
    row = of(table, formulation="pointer", noise=0.5, model="indirect", less="standard", measure="start_mean_ms")
    values = [
        a["test"]["start_mean_ms"] - b["test"]["start_mean_ms"]
        for a, b in zip(*(results_of(tree, model, 0.5, "pointer") for model in ("indirect", "standard")), strict=True)
    ]
    interval = mean_interval(values)
    assert row[["mean", "low", "high"]].iloc[0].tolist() == pytest.approx([interval.mean, interval.low, interval.high])
    assert (table["crossed_low"] <= table["mean"] + 1e-6).all()
    assert (table["crossed_high"] >= table["mean"] - 1e-6).all()
    assert not (table["model"] == table["less"]).any()


def test_indirect_is_compared_with_all_and_all_with_the_references(tmp_path):
    models = ("indirect", "standard", "cross", "cross_moving")
    table = differences(placed(Plotter(find_runs(grown(tmp_path, models, (0.5,), (0,), False)), tmp_path)))
    pairs = set(zip(table["model"], table["less"], strict=True))
    assert pairs == {
        *((model, less) for less in ("standard", "cross") for model in models if model != less),
        ("indirect", "cross_moving"),
    }
    assert table["low"].isna().all()  # of one seed
    assert table["crossed_low"].notna().all()


def test_seeds_that_are_not_of_both_models_are_left_out_of_differences(tmp_path):
    generator = np.random.default_rng(1)
    for model, seeds in (("indirect", (0, 1)), ("standard", (1, 2))):
        for seed in seeds:
            write(tmp_path, model, 0.0, seed, scores(generator, 20))
    table = differences(placed(Plotter(find_runs(tmp_path), tmp_path)))
    assert set(table["seeds"]) == {1}
    better = [
        [run.result()["test"]["start_mean_ms"] for run in find_runs(tmp_path, TASK, model)]
        for model in ("standard", "indirect")
    ]
    expected = (np.sign(np.subtract.outer(*better)) / 2 + 0.5).mean()
    row = of(table, model="indirect", less="standard", measure="start_mean_ms")
    assert row["improvement"].iloc[0] == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(-2000, 2000)), min_size=1, max_size=30))
def test_cumulative_shares_count_words_within_an_error(starts):
    from indattn.plot.alignment_results import GRID, KEYS, Placed

    signed = np.array(starts, float)
    labels = {**dict.fromkeys(KEYS, ""), "model": "indirect", "seed": 0, "formulation": "centres"}
    table = cumulative([Placed(labels, {}, signed, np.arange(len(signed)), {}, None)])
    assert table["error_ms"].tolist() == GRID.tolist()
    assert {20, 50, 100} <= set(table["error_ms"])
    within = [np.sum(np.abs(signed) <= error) / len(signed) for error in GRID]  # NaN is within nothing
    assert table["share"].tolist() == pytest.approx(within)


def test_variants_of_one_formulation_are_no_variants_of_the_others(tmp_path, quick):
    grown(tmp_path, seeds=(0,), others=False)
    for noise in (0.0, 0.5):
        test = scores(np.random.default_rng(3), 20)
        write(tmp_path, "indirect", noise, 0, test, "task.formulation=pointer", "training.lr=0.5")
    plotter = Plotter(find_runs(tmp_path), tmp_path)
    assert {one.labels["variant"] for one in placed(plotter)} == {"", "lr-0.5"}
    noise_figures(plotter)
    assert {path.stem for path in plotter.written} == {"alignment-error-synthetic", "alignment-error-synthetic-lr-0.5"}


def test_a_variant_of_another_corpus_alone_has_no_figure_of_its_own(tmp_path, quick):
    grown(tmp_path, seeds=(0,), others=False)
    for noise in (0.0, 0.5):
        test = scores(np.random.default_rng(3), 20)
        write(tmp_path, "cross", noise, 0, test, "task.formulation=pointer", other={"skip": -5.0})
    plotter = Plotter(find_runs(tmp_path), tmp_path)
    alignment(plotter)
    assert "alignment-cumulative-synthetic" in {path.stem for path in plotter.written}


# Figures -------------------------------------------------------------------------------------------------------


def test_every_figure_and_table_is_written_once(command, tree, quick):
    code, out, err = command("plot", "alignment", "noise", f"results_dir={tree}")
    assert (code, err) == (0, "")
    names = [line.rpartition("/")[2] for line in out.splitlines()]
    shown = ("alignment-error-synthetic", "alignment-error-synthetic-on-mine", "alignment-cumulative-synthetic")
    corpora = "alignment-corpora-synthetic-centres"
    assert sorted(names) == sorted(
        [*(f"{name}.png" for name in (*shown, corpora))]
        + [f"{name}.csv" for name in ("alignment", "alignment-differences", shown[-1], corpora)]
    )
    table = pd.read_csv(tree / "tables" / "alignment.csv")
    assert len(table) == 2 * 2 * 3
    assert list(table.columns[:4]) == ["data", "formulation", "model", "noise"]
    assert "variant" not in table


@pytest.mark.parametrize(
    ("seeds", "levels", "with_baselines", "lost"),
    [
        ((0,), (0.5,), False, 0.0),
        ((0,), (0.0, 0.5), True, 1.0),
        ((0, 1), (0.5,), True, 0.1),
        ((0, 1), (0.0, 0.5), False, 1.0),
    ],
)
def test_figures_of_one_and_several_seeds_and_levels(tmp_path, seeds, levels, with_baselines, lost):
    grown(tmp_path, levels=levels, seeds=seeds, others=False, lost=lost)
    file = beside(tmp_path, levels=(0.5,)) if with_baselines else tmp_path / "none.csv"
    found, others = placed(Plotter(find_runs(tmp_path), tmp_path)), baselines(file)
    figure = alignment_figures.error_curves(summary(found), others, "title")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        *(["another", "warping onto synthetic speech", "even spread"] * with_baselines),
        "indirect",
        "standard",
    ]
    assert len(figure.axes) == 2 * 2
    for axes in figure.axes:
        low, high = axes.get_ylim()
        labels = [float(text.get_text()) for text in axes.get_yticklabels()]
        assert labels == (axes.get_yticks().tolist() if axes in figure.axes[::2] else [])
        assert len(axes.get_yticks()) >= 2
        for line in axes.lines:
            values = np.asarray(line.get_ydata(), float)
            assert ((values >= low) & (values <= high)).all()
    for axes, measure in zip(figure.axes[::2], alignment_figures.MEASURES, strict=True):  # intervals are whole
        shown = [one[f"{measure}_{end}"] for one in (summary(found), others) for end in ("low", "high")]
        ends = np.concatenate(shown).astype(float)
        low, high = axes.get_ylim()
        assert ((ends <= 0) | np.isnan(ends) | ((ends >= low) & (ends <= high))).all()
    assert ("no interval" in figure.get_suptitle()) == (len(seeds) == 1)
    figures.plt.close(figure)

    figure = alignment_figures.cumulative_levels(cumulative(found), others, "title")
    assert len(figure.axes) == 2 * len(levels)
    marks = [line for line in figure.axes[len(levels) - 1].lines if line.get_label() == "even spread"]
    assert len(marks) == with_baselines
    if marks:
        assert np.asarray(marks[0].get_ydata()).tolist() == pytest.approx([0.4] * 3)
        assert np.asarray(marks[0].get_xdata()).tolist() == [20, 50, 100]
    figures.plt.close(figure)


def test_bands_are_the_intervals_over_seeds(tree, found):
    table = of(summary(found), data="synthetic")
    figure = alignment_figures.error_curves(table, baselines(tree / "none.csv"), "title")
    row = of(table, formulation="centres", model="indirect", noise=0.5).iloc[0]
    axes = figure.axes[0]
    (line,) = [line for line in axes.lines if line.get_label() == "indirect"]
    assert line.get_ydata()[-1] == pytest.approx(row["start_median_ms"])
    corners = axes.collections[0].get_paths()[0].vertices
    assert corners[corners[:, 0] == 0.5, 1].max() == pytest.approx(row["start_median_ms_high"])
    figures.plt.close(figure)


def test_a_corpus_that_was_not_tested_at_a_level_has_an_empty_panel(tmp_path):
    write(tmp_path, "indirect", 0.0, 0, scores(np.random.default_rng(0), 20), other={"noise": 0.25})
    table = cumulative(placed(Plotter(find_runs(tmp_path), tmp_path)))
    figure = alignment_figures.cumulative_corpora(table, baselines(tmp_path / "none.csv"), "title")
    assert [axes.get_title() for axes in figure.axes[:2]] == ["synthetic", "mine"]
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [["not tested"], []]
    assert "trained at 0" in figure.axes[0].get_ylabel()
    figures.plt.close(figure)


def test_evaluations_of_other_test_seeds_and_of_the_test_itself_are_no_further_tests(tmp_path):
    for seed, other in enumerate(({"test_seed": 1}, {"corpus": CORPUS, "data": "synthetic"})):
        write(tmp_path, "indirect", 0.5, seed, scores(np.random.default_rng(0), 20), other=other)
    assert len(placed(Plotter(find_runs(tmp_path), tmp_path))) == 2


def test_curves_have_no_line_of_an_order_by_chance(tree):
    runs = find_runs(tree, TASK, "indirect", 0.5)
    figure = figures.learning_curves(curve_table(runs).assign(variant=""), run_table(runs).assign(variant=""), *LABELS)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["indirect"]
    assert "within 50 ms" in figure.axes[0].get_ylabel()
    figures.plt.close(figure)


# What is wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"per_example": None}, "no errors of words"),
        ({"per_example": {"start": [1.0], "utterance": [0, 0]}}, "1 starts of 2 words"),
        ({"per_example": {"start": [1.0], "utterance": [0]}}, "is of other words than"),
    ],
)
def test_results_that_cannot_be_compared_are_said_in_one_line(tmp_path, command, change, words):
    generator = np.random.default_rng(0)
    for seed in (0, 1):
        path = write(tmp_path, "indirect", 0.5, seed, scores(generator, 20))
    result = json.loads((path / "result.json").read_text())
    write_json(path / "result.json", {**result, **change})
    code, _, err = command("plot", "alignment", f"results_dir={tmp_path}")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert words in err
    assert "result.json" in err


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("noise", "level", "no column 'noise'"),
        ("linear,0.0", "linear,much", "row 2: noise='much' is not a number"),
        ("data", "\0", "alignment-baselines.csv"),
    ],
)
def test_a_wrong_table_of_baselines_is_said_in_one_line(tmp_path, old, new, words):
    path = beside(tmp_path)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=r"alignment-baselines\.csv") as raised:
        baselines(path)
    assert words in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_runs_without_spans_are_said_in_one_line(command, tree):
    code, _, err = command("plot", "spans", f"results_dir={tree}")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "do not make spans" in err


def test_other_tasks_have_no_such_figures():
    plotter = Plotter([], None)
    plotter.table = pd.DataFrame(columns=["task", "path"])
    assert placed(plotter) == []


def test_no_marker_is_cut_by_the_axis():
    for value in (103.0, 100.0, 399.0, 2.02):
        low, high = alignment_figures._limits(np.array([value]))
        assert low * 1.05 < value < high / 1.05
