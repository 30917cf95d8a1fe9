"""Tables, baselines and figures of retrieval, from a results tree written by hand."""

import functools
import json

import numpy as np
import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from indattn import figures
from indattn.build import build_task
from indattn.config import configs_dir
from indattn.data.pairs import load_pairs
from indattn.errors import UserError
from indattn.misalignment import Mismatch
from indattn.plot.plotter import Plotter
from indattn.plot.recorded import run_figures
from indattn.plot.retrieval import Numbers, ranked
from indattn.plot.retrieval_pages import chosen_queries, pairs_of
from indattn.plot.scores import run_table
from indattn.recall import chance, chance_recall, summarise
from indattn.runs import FORMAT, find_runs
from indattn.tasks.baselines import Lookup
from indattn.tasks.cross_modal_retrieval import CrossModalRetrieval

MODELS, LEVELS, SEEDS = ("dual", "uniform", "indirect"), (0.0, 0.2), (0, 1)
RUN = ("task=cross_modal_retrieval", "task.encoder=scratch", "task.style_size=60")
OTHER = "image,caption,split\n" + "".join(f"{k}.png,number {k},test\n" for k in range(3))


@pytest.fixture(scope="module")
def task():
    return CrossModalRetrieval(encoder="scratch", style_size=60)


@pytest.fixture(scope="module")
def tree(tmp_path_factory, task):
    """Three models, two levels, two seeds; ranks by chance, the better the less noise; one other corpus."""
    results = tmp_path_factory.mktemp("results")
    for k in range(3):
        Image.new("RGB", (8, 8), (80 * k, 0, 0)).save(results / f"{k}.png")
    other = results / "other.csv"
    other.write_text(OTHER)
    split = task.split("test", Mismatch())
    generator = np.random.default_rng(0)
    with initialize_config_dir(str(configs_dir()), version_base="1.3"):
        configs = {
            (model, noise, seed): hydra_compose(
                "train",
                overrides=[*RUN, f"model={model}", f"noise={noise}", f"seed={seed}"],
            )
            for model in MODELS
            for noise in LEVELS
            for seed in SEEDS
        }

    def test_of(texts, images, noise):
        ranks = [generator.geometric(0.3 - noise, size=len(rows)) for rows in (texts, images)]
        return {
            "texts": texts.tolist(),
            "images": images.tolist(),
            "text_ranks": [float(rank) for rank in ranks[0]],
            "image_ranks": [float(rank) for rank in ranks[1]],
        }

    for (model, noise, seed), config in configs.items():
        path = results / "runs" / config.task.name / model / f"noise-{noise:.2f}" / f"seed-{seed}" / "1234abcd"
        path.mkdir(parents=True)
        OmegaConf.save(OmegaConf.create(OmegaConf.to_container(config, resolve=True)), path / "config.yaml")
        unseen = test_of(split["texts"], split["images"], noise)
        unseen["top"] = generator.choice(unseen["images"], (len(unseen["texts"]), 10)).tolist()
        style = test_of(split["style_texts"], split["style_images"], noise)
        scores = {f"t2i_{key}": value for key, value in summarise(np.asarray(unseen["text_ranks"])).items()}
        test = {"accuracy": scores["t2i_r1"], "loss": 1.0, **scores}
        result = {
            "format": FORMAT,
            "kind": "mismatch",
            "metric": task.metric,
            "steps": 2,
            "steps_to_0.9": None,
            "test": test,
            "validation": test,
            "train_loss": 1.0,
            "chance": 0.004,
            "ceiling": None,
            "parameters": 1000,
            "seconds": 2.0,
            "per_example": {"unseen": unseen, "style": style},
        }
        (path / "result.json").write_text(json.dumps(result))
        lines = [{"step": step, "accuracy": 0.1 * step, "loss": 1.0, "train_loss": 1.0} for step in (0, 1, 2)]
        (path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        (path / "evaluations").mkdir()
        corpus = {"data": str(other), "fingerprint": load_pairs(other, needed=()).fingerprint}
        evaluation = {"data": str(other), "test_seed": 0, "corpus": corpus}
        evaluation["per_example"] = {"unseen": test_of(torch.arange(3), torch.arange(3), noise)}
        for level in ("0.00", "0.50"):  # evaluated at two levels, which is one test
            (path / "evaluations" / f"other-{level}.json").write_text(json.dumps(evaluation))
        if model != "dual" and noise == 0:
            weights = generator.dirichlet(np.ones(64), (2, 8, 4, 4)).astype(np.float16)
            rows = {"pair_texts": split["texts"][:8].numpy(), "pair_images": split["images"][:32:4].numpy()}
            boxes = {"pair_centres": generator.uniform(1, 6, (2, 8, 4, 4))} if model == "indirect" else {}
            np.savez(path / "recording.npz", pair_attention=weights, **rows, **boxes)
    return results


@pytest.fixture(scope="module")
def numbers(tree):
    return Numbers.of(Plotter(find_runs(tree), tree))


def of(table, **values):
    """Rows with these values."""
    return table[np.logical_and.reduce([table[key] == value for key, value in values.items()])]


def test_chance_is_that_of_a_random_order():
    relevant = np.array([4, 4, 1])
    found = chance(40, relevant)
    assert found["r5"] == pytest.approx(np.mean([chance_recall(40, r, 5) for r in relevant]))
    orders = np.random.default_rng(0).random((3, 20000, 40)).argsort(-1)
    ranks = np.stack([1 + orders[k, :, :r].min(1) for k, r in enumerate(relevant)])
    drawn = summarise(ranks.ravel().astype(float))
    assert found == pytest.approx(drawn, rel=0.03, abs=0.5)
    assert found["mrr"] == pytest.approx(drawn["mrr"], rel=0.03)


@pytest.fixture
def quick(monkeypatch):
    """Figures as PNG alone."""
    monkeypatch.setattr(figures, "save", functools.partial(figures.save, formats=("png",)))


def test_every_figure_and_table_is_written(command, tree, quick):
    code, out, err = command("plot", "retrieval", "retrieved", "centres", "noise", f"results_dir={tree}")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    names = [line.rpartition("/")[2] for line in lines]
    assert len(set(names)) == len(names)  # `noise` draws nothing again
    tables = {name for name in names if name.endswith(".csv")}
    assert {"retrieval.csv", "retrieval-differences.csv", "retrieval-runs.csv"} <= tables
    stems = {name[:-4] for name in names if name.endswith(".png")}
    task = "cross_modal_retrieval"
    assert stems == {
        *(f"{kind}-{task}" for kind in ("noise", "differences", "differences-dual")),
        f"retrieved-{task}-indirect-dual-noise-0.00-seed-0",
        *(f"centres-{task}-{model}-noise-0.00-seed-0-1234abcd" for model in MODELS[1:]),
    }


def test_the_table_holds_the_runs_scores_and_what_chance_has(tree, numbers):
    table = numbers.summary
    for model in MODELS:
        row = of(table, model=model, noise=0.2, test="unseen", direction="text_to_image").iloc[0]
        scores = [run.result()["test"]["t2i_r10"] for run in find_runs(tree, model=model, noise=0.2)]
        assert row["seeds"] == len(scores) == 2
        assert row["r10"] == pytest.approx(np.mean(scores))
        assert row["r10_low"] < row["r10"] < row["r10_high"]
        assert row["r1_chance"] == pytest.approx(CrossModalRetrieval(encoder="scratch").chance())
    assert set(table["test"]) == {"unseen", "style", "other"}
    assert of(table, test="other", direction="image_to_text")["r1_chance"].tolist() == pytest.approx([1 / 3] * 6)
    assert set(of(table, model="pixels")["test"]) == {"style"}
    assert "frozen" not in set(table["model"])  # these runs' encoder is another


def test_differences_are_paired_by_seed(tree, numbers):
    table = numbers.differences
    row = of(table, model="indirect", less="dual", noise=0.2, test="unseen", direction="text_to_image", measure="r10")
    scores = {
        model: np.array([run.result()["test"]["t2i_r10"] for run in find_runs(tree, model=model, noise=0.2)])
        for model in ("indirect", "dual")
    }
    assert len(row) == 1
    assert row["mean"].iloc[0] == pytest.approx((scores["indirect"] - scores["dual"]).mean())
    better = np.sign(np.subtract.outer(scores["indirect"], scores["dual"])) / 2 + 0.5
    assert row["improvement"].iloc[0] == pytest.approx(better.mean())
    assert (table["crossed_low"] <= table["mean"] + 1e-9).all()
    assert (table["crossed_high"] >= table["mean"] - 1e-9).all()
    compared = set(zip(table["model"], table["less"], strict=True))
    assert {("dual", "uniform"), ("indirect", "pixels"), ("pixels", "dual")} <= compared
    assert not any(model == less for model, less in compared)


def test_what_follows_the_noise_makes_no_variant(tree):
    assert set(run_table(find_runs(tree))["variant"]) == {""}  # forget_rate: ${noise}


def test_groups_are_those_of_the_queries_items(tree, task):
    first = ranked(run_table(find_runs(tree, model="dual", noise=0, seed=0)))
    images = next(one for one in first if one.labels["direction"] == "image_to_text" and one.labels["test"] == "style")
    assert (images.groups == task.pairs.groups[task.pairs.image_items[images.queries]]).all()


def test_lookup_is_a_plain_search_of_the_nearest_pixels(task):
    lookup = Lookup(task, "pixels")
    scores = lookup.scores(Mismatch(), 0)
    pairs, split = task.pairs, task.split("test", Mismatch())
    pixels = pairs.images.read(range(len(pairs.images)), 16).astype(float) / 255
    for row in (0, 7, 31):
        item = pairs.text_items[split["style_texts"][row]]
        known = np.flatnonzero((pairs.image_items == item) & (pairs.image_sources != task.held_source))
        nearest = [min(np.linalg.norm(pixels[k] - pixels[j]) for k in known) for j in split["style_images"]]
        assert scores[row].numpy() == pytest.approx(-np.array(nearest), abs=1e-4)
        own = np.flatnonzero(pairs.image_items[split["style_images"]] == item)[0]
        assert lookup.test(Mismatch(), 0)["text_ranks"][row] == 1 + np.sum(nearest < nearest[own])


def test_lookup_searches_the_pairs_as_the_seed_made_them(task):
    lookup, noise = Lookup(task, "pixels"), Mismatch(noise=0.9)
    test = lookup.test(noise, 3)
    given = task.training_data(noise, 1, 3).text_items.numpy()
    lost = ~np.isin(task.pairs.text_items[test["texts"]], given)
    assert lost.any()
    count = len(test["images"])
    assert set(np.asarray(test["text_ranks"])[lost]) == {1 + (count - 1) / 2}  # in the middle of a tie
    assert test != lookup.test(noise, 4)


def test_queries_are_right_nearly_and_wrong():
    ranks = np.array([1, 50, 3, 1, 1, 9, 2, 4, 7.5, 1])
    assert ranks[chosen_queries(ranks)].tolist() == [1, 1, 2, 4, 9, 7.5]
    assert ranks[:3][chosen_queries(ranks[:3])].tolist() == [1, 3, 50]


def test_a_corpus_that_has_changed_is_noticed(tree, monkeypatch):
    run = next(one for one in find_runs(tree) if one.labels["model"] == "dual")
    known = {"data": "emoji", "fingerprint": "another"}
    monkeypatch.setattr(type(run), "result", lambda self: {"corpus": known})
    with pytest.raises(UserError, match="emoji has changed since"):
        pairs_of(run)


def test_a_run_s_own_figures(tree, quick):
    run = find_runs(tree, model="indirect")[0]
    run_figures(run)
    assert {path.name for path in (run.path / "figures").glob("*.png")} == {"learning_curve.png", "centres.png"}


def test_the_task_of_a_configuration_says_what_it_measures(compose):
    assert build_task(compose("task=cross_modal_retrieval")).metric == "text to image R@1"
    assert build_task(compose("task=synthetic")).metric == "accuracy"
