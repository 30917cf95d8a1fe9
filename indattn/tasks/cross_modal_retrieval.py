"""Cross-modal retrieval: the picture of a text and the text of a picture, when some training pairs are wrong."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from indattn.data.pairs import SPLITS, Pairs, load_pairs
from indattn.errors import UserError, nearest
from indattn.misalignment import Batch, Misalignment, Mismatch
from indattn.tasks.base import WHOLE, Counts, Scores, Task, batch_generator, to_device
from indattn.tasks.encoders import Features, frozen, scratch
from indattn.tasks.ranking import chance_recall, ranks, summarise

__all__ = ["CrossModalRetrieval", "PairBatches", "score_matrix"]

EXAMPLES = 8
"""Texts of the test whose attention is recorded."""

SHOWN = 10
"""Best pictures of each text that a result keeps."""

BLOCK = 32
"""Texts, and pictures, that are scored at once: a block's attention weights stay in a processor's cache."""

ENCODED = 256
"""Pictures, or texts, that are encoded at once."""

ENCODERS = {"frozen": frozen, "scratch": scratch}


@dataclass
class CrossModalRetrieval(Task):
    """Pictures and texts score each other; a text's right pictures should score best, and a picture's right texts.

    Training pairs are pictures of the training split with their texts, of which ``noise`` makes a part wrong
    (:class:`~indattn.misalignment.Mismatch`). Test pairs are always right. Two tests:

    - *unseen*: texts and pictures of the test split's items; every picture of an item is relevant to its texts. The
      scores without a prefix, and ``accuracy`` is its text to image R@1;
    - *style* (only with a held-out artist): items of the training split, drawn by the artist that no training picture
      is by. Scores begin with ``style_``.

    ``t2i_`` is text to image, ``i2t_`` image to text; ``r1``, ``r5``, ``r10``, ``median`` and ``mrr`` are as in
    :func:`~indattn.tasks.ranking.summarise`, between 0 and 1 but for the median rank.

    The loss is InfoNCE in both directions (van den Oord et al., arXiv 1807.03748; as in CLIP, Radford et al., arXiv
    2103.00020), over batches in which an item occurs once; pairs whose texts are of one item are no negatives of each
    other. With ``selection: small_loss`` a batch's pairs with the largest losses are left out of the mean, a part
    that rises to ``forget_rate`` over the first epochs (Han et al., Co-teaching, NeurIPS 2018, arXiv 1804.06872, with
    one network): pairs that are wrong are learned last.

    Args:
        data, images: the corpus (:func:`~indattn.data.pairs.load_pairs`).
        encoder: ``frozen`` or ``scratch`` (:mod:`indattn.tasks.encoders`).
        held_out: the source no training picture is from; ``None``: all are trained on.
        style_size: items of the style test at most, chosen once for all runs.
        hard_clusters: a batch consists of groups of so many training items whose given texts are alike.
        size: side of a picture for the scratch encoder, in pixels.
        selection: ``none`` or ``small_loss``.
        forget_rate: part of the pairs left out in the end.
        forget_epochs: epochs over which that part rises from 0.
    """

    name: ClassVar[str] = "cross_modal_retrieval"
    kinds: ClassVar[tuple[str, ...]] = ("mismatch",)
    metric: ClassVar[str] = "text to image R@1"
    family: ClassVar[str] = "indattn.models.pairs"

    data: str = "emoji"
    images: str | None = None
    encoder: str = "frozen"
    held_out: str | None = "openmoji"
    style_size: int = 400
    hard_clusters: int = 1
    size: int = 32
    selection: str = "none"
    forget_rate: float = 0.0
    forget_epochs: int = 5

    def __post_init__(self) -> None:
        if self.encoder not in ENCODERS:
            raise UserError(f"task.encoder={self.encoder}: must be {' or '.join(ENCODERS)}")
        if self.selection not in ("none", "small_loss"):
            raise UserError(f"task.selection={self.selection}: must be none or small_loss")
        for key in ("style_size", "hard_clusters", "forget_epochs", "size"):
            if getattr(self, key) < 1:
                raise UserError(f"task.{key}={getattr(self, key)}: must be at least 1")
        if not 0 <= self.forget_rate <= 1:
            raise UserError(f"task.forget_rate={self.forget_rate}: must be from 0 to 1")

    # The corpus ----------------------------------------------------------------------------------------------

    @functools.cached_property
    def pairs(self) -> Pairs:
        """Pictures and texts."""
        pairs = load_pairs(self.data, self.images, needed=())
        if self.held_out is not None and len(pairs.sources) > 1:  # one source: no style to hold out
            if self.held_out not in pairs.sources:
                hint = nearest(self.held_out, pairs.sources, 9)
                raise UserError(f"task.held_out={self.held_out}: no such source{hint}; null trains on all")
            drawn = pairs.image_sources[np.isin(pairs.image_items, pairs.items("validation"))]
            if len(drawn) and (drawn == pairs.sources.index(self.held_out)).all():
                raise UserError(f"task.held_out={self.held_out}: no validation picture is from another source")
        return pairs

    @functools.cached_property
    def features(self) -> Features:
        """What the encoders read."""
        # Models that are only counted are built on no device; encoders that are loaded to make features draw numbers,
        # and a run must not depend on whether its features were there already.
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            return ENCODERS[self.encoder](self.pairs, self.size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a picture's tokens."""
        return self.features.grid

    @property
    def widths(self) -> tuple[int, int]:
        """Width of a text's and of a picture's tokens."""
        return self.features.widths

    def encoders(self) -> tuple[nn.Module, nn.Module]:
        """From a batch to a text's tokens with their mask, and to a picture's tokens."""
        return self.features.encoders()

    @property
    def held_source(self) -> int | None:
        """Number of the held-out source, where the corpus has several."""
        if self.held_out is None or len(self.pairs.sources) < 2:
            return None
        return self.pairs.sources.index(self.held_out)

    def rows(self, items: NDArray[np.int64], held: bool | None = None) -> tuple[Tensor, Tensor]:
        """Pictures and texts of some items: their rows in the corpus, every text with one of the pictures.

        Args:
            items: numbers of items.
            held: only pictures by the held-out source (true), by the others (false), by all (``None``).
        """
        chosen = np.isin(self.pairs.image_items, items)
        if held is not None:
            chosen &= (self.pairs.image_sources == self.held_source) == held
        texts = np.isin(self.pairs.text_items, self.pairs.image_items[chosen])
        return torch.from_numpy(np.flatnonzero(chosen)), torch.from_numpy(np.flatnonzero(texts))

    # Training ------------------------------------------------------------------------------------------------

    def training_data(self, misalignment: Misalignment, batch_size: int, seed: int) -> PairBatches:
        """Batches of pairs, some of them wrong.

        Raises:
            UserError: if one of the splits is empty, or there are fewer training items than pairs in a batch.
        """
        for split in SPLITS:
            self._demand(split)
        return PairBatches(self, misalignment, batch_size, seed)

    def loss(self, logits: Tensor, batch: Batch, whole: Counts | None = None) -> Tensor:
        """InfoNCE over ``(T, T)`` scores whose diagonal are the pairs, in nats, mean of both directions."""
        items = batch["text_items"]
        same = (items.unsqueeze(0) == items.unsqueeze(1)).fill_diagonal_(False)
        logits = logits.float().masked_fill(same, -torch.inf)
        target = torch.arange(len(items), device=logits.device)
        losses = (
            F.cross_entropy(logits, target, reduction="none") + F.cross_entropy(logits.T, target, reduction="none")
        ) / 2
        if self.selection == "none":
            return losses.mean()
        rate = self.forget_rate * min(1.0, batch["epoch"].item() / self.forget_epochs)
        kept = max(1, round((1 - rate) * len(losses)))
        return losses.topk(kept, largest=False).values.mean()

    def counts(self, batch: Batch) -> Counts:
        """Never: every pair is a negative of every other."""
        raise UserError(f"task {self.name} compares all pairs of a batch: {WHOLE}")

    # Tests ---------------------------------------------------------------------------------------------------

    def split(self, split: str, misalignment: Misalignment, seed: int = 0) -> Batch:
        """Rows of the right pairs of a split, which no misalignment touches: ``images``, ``texts``.

        Validation has no picture by the held-out artist. The test has those of the style test beside them
        (``style_images``, ``style_texts``); ``seed`` picks other items for that.

        Raises:
            UserError: if there is none.
        """
        self._demand(split)
        held = False if split == "validation" and self.held_source is not None else None
        images, texts = self.rows(self.pairs.items(split), held)
        batch = {"images": images, "texts": texts}
        if split == "test" and self.held_source is not None:
            drawn = self.pairs.image_items[self.pairs.image_sources == self.held_source]
            seen = torch.from_numpy(np.intersect1d(self.pairs.items("train"), drawn))
            if len(seen):
                order = torch.randperm(len(seen), generator=batch_generator("test", seed))[: self.style_size]
                batch["style_images"], batch["style_texts"] = self.rows(np.asarray(seen[order]), True)
        return batch

    def score(self, model: nn.Module, split: Batch, device: torch.device) -> Scores:
        """All scores of the split's tests. The loss is text to image: what probability the right pictures have."""
        scores, loss = score_matrix(model, self, split["texts"], split["images"], device)
        more, per_example = self._ranked(scores, split["texts"], split["images"])
        per_example["top"] = split["images"][scores.topk(min(SHOWN, scores.shape[1]), dim=1).indices].tolist()
        result = {"unseen": per_example}
        if "style_texts" in split:
            style, _ = score_matrix(model, self, split["style_texts"], split["style_images"], device)
            named, result["style"] = self._ranked(style, split["style_texts"], split["style_images"])
            more |= {f"style_{key}": value for key, value in named.items()}
        return Scores(loss=loss, accuracy=more["t2i_r1"], more=more, per_example=result)

    def _demand(self, split: str) -> None:
        if not len(self.pairs.items(split)):
            raise UserError(f"task.data={self.data}: no picture in split {split!r}")

    def relevance(self, texts: Tensor, images: Tensor) -> Tensor:
        """``(T, I)`` booleans: which texts and pictures are of one item."""
        of_text, of_image = (torch.from_numpy(x) for x in (self.pairs.text_items, self.pairs.image_items))
        return of_text[texts].unsqueeze(1) == of_image[images].unsqueeze(0)

    def _ranked(self, scores: Tensor, texts: Tensor, images: Tensor) -> tuple[dict[str, float], dict[str, Any]]:
        """Scores by name, and the ranks they come from, in the order of the rows."""
        relevant = self.relevance(texts, images)
        of_texts, of_images = ranks(scores, relevant), ranks(scores.T, relevant.T)
        named = {"t2i": summarise(of_texts), "i2t": summarise(of_images)}
        more = {f"{way}_{key}": value for way, all_ in named.items() for key, value in all_.items()}
        return more, {
            "texts": texts.tolist(),
            "images": images.tolist(),
            "text_ranks": of_texts.tolist(),
            "image_ranks": of_images.tolist(),
        }

    def record(self, model: Any, split: Batch, device: torch.device) -> dict[str, np.ndarray]:
        """What a late block does with some right pairs, spread over the split.

        ``pair_texts``, ``pair_images (E,)``: their rows; ``pair_attention (L, E, H, m, n)`` in float16 and, with a
        bias, ``pair_centres (L, E, m, 4)``: boxes in cells.
        """
        spread = torch.linspace(0, len(split["texts"]) - 1, min(EXAMPLES, len(split["texts"]))).long()
        texts = split["texts"][spread]
        first = self.relevance(texts, split["images"]).to(torch.int8).argmax(1)
        images = split["images"][first]
        was_training = model.training
        model.eval()
        with torch.no_grad():
            _, output = model(to_device(self.features.batch(texts, images), device), record=True)
        model.train(was_training)
        recorded = {"pair_texts": texts, "pair_images": images}

        def own(x: Tensor) -> Tensor:  # of text e, its own picture
            return torch.diagonal(x.expand(len(texts), len(images), *x.shape[2:]), dim1=0, dim2=1).movedim(-1, 0)

        if output.weights:
            recorded["pair_attention"] = torch.stack([own(x) for x in output.weights]).half()
        if output.centres and output.centres[0] is not None:
            recorded["pair_centres"] = torch.stack([own(x) for x in output.centres])
        return {key: np.asarray(value.cpu()) for key, value in recorded.items()}

    def chance(self) -> float:
        """Text to image R@1 of a random order of the unseen test."""
        return self._chance(*self.rows(self.pairs.items("test")))

    def validation_chance(self) -> float:
        """The same on the validation split."""
        split = self.split("validation", Mismatch())
        return self._chance(split["images"], split["texts"])

    def corpus(self) -> dict[str, str]:
        """Where the corpus lies, and the digest of what is in it."""
        places = {"data": self.data, "images": self.images}
        where = {key: str(Path(place).resolve()) for key, place in places.items() if place and Path(place).exists()}
        return {"data": self.data, **where, "fingerprint": self.pairs.fingerprint}

    def _chance(self, images: Tensor, texts: Tensor) -> float:
        relevant = self.relevance(texts, images).sum(1).tolist()
        return float(np.mean([chance_recall(len(images), count, 1) for count in relevant]))

    def ceiling(self, kind: str, noise: float) -> float | None:
        """Not known: texts and pictures may fit several items, and how much noise costs at best nobody says."""
        return None

    def says(self, result: dict[str, Any]) -> str:
        """Recall of the unseen test, both ways."""
        test = result["test"]
        ways = (("text to image", "t2i"), ("image to text", "i2t"))
        return "unseen " + ", ".join(
            f"{words} R@1 {100 * test[f'{way}_r1']:.1f}% R@10 {100 * test[f'{way}_r10']:.1f}%" for words, way in ways
        )


class PairBatches:
    """Batches of training pairs. An epoch goes once through the items; an item's picture and caption are drawn.

    Which pairs are wrong, and with whose text, is drawn once by the seed.
    """

    def __init__(self, task: CrossModalRetrieval, misalignment: Misalignment, batch_size: int, seed: int) -> None:
        self.task, self.batch_size, self.seed = task, batch_size, seed
        pairs = task.pairs
        images, _ = task.rows(pairs.items("train"), None if task.held_source is None else False)
        items = torch.from_numpy(pairs.image_items)[images]
        # Pairs item by item: those of items[k] are rows starts[k] to starts[k + 1].
        order = items.argsort(stable=True)
        self.images, self.image_items = images[order], items[order]
        sample = {"text_items": self.image_items}
        self.text_items = misalignment.apply(sample, None, batch_generator("sample", seed))["text_items"]
        self.items, counts = self.image_items.unique_consecutive(return_counts=True)
        self.counts, self.starts = counts, counts.cumsum(0) - counts
        texts = torch.from_numpy(pairs.text_items)
        self.texts = texts.argsort(stable=True)
        self.text_counts = torch.bincount(texts, minlength=int(pairs.image_items.max()) + 1)
        self.text_starts = self.text_counts.cumsum(0) - self.text_counts
        if len(self.items) < batch_size:
            raise UserError(
                f"training.batch_size={batch_size}: {pairs.name} has {len(self.items)} training items, "
                "and a batch has each at most once"
            )
        self.epoch, self.order = -1, torch.empty(0, dtype=torch.long)

    def batch(self, step: int) -> Batch:
        """The pairs of a step (from 0); their items, the items of their texts, and the epoch."""
        epoch, position = divmod(step, len(self.items) // self.batch_size)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, self._shuffled(batch_generator("train", self.seed, epoch))
        chosen = self.order[position * self.batch_size : (position + 1) * self.batch_size]
        generator = batch_generator("train", self.seed, epoch, position)
        picture = self.starts[chosen] + drawn_below(self.counts[chosen], generator)
        text_items = self.text_items[picture]
        text = self.texts[self.text_starts[text_items] + drawn_below(self.text_counts[text_items], generator)]
        batch = self.task.features.batch(text, self.images[picture])
        return {
            **batch,
            "image_items": self.image_items[picture],
            "text_items": text_items,
            "epoch": torch.tensor(float(epoch)),
        }

    def _shuffled(self, generator: Generator) -> Tensor:
        """An order of the items; with ``hard_clusters`` items whose texts are alike come together.

        Random items are centres, one for each cluster; every item goes to the nearest, and the clusters follow one
        another in random order.
        """
        order = torch.randperm(len(self.items), generator=generator)
        clusters = len(order) // self.task.hard_clusters
        if self.task.hard_clusters == 1 or clusters < 2:
            return order
        embedded = F.normalize(self._pooled[order], dim=-1)
        nearest_centre = (embedded @ embedded[:clusters].T).argmax(1)
        return order[nearest_centre.argsort(stable=True)]

    @functools.cached_property
    def _pooled(self) -> Tensor:
        """``(items, w)``: the mean token of a text that each item's first picture is given, less the mean of all."""
        first = self.texts[self.text_starts[self.text_items[self.starts]]]
        pooled = torch.cat([self.task.features.pooled_texts(part) for part in first.split(ENCODED)])
        return pooled - pooled.mean(0)


def drawn_below(bounds: Tensor, generator: Generator) -> Tensor:
    """A whole number from 0 to below each bound."""
    fraction = torch.rand(len(bounds), generator=generator, dtype=torch.float64)
    return (fraction * bounds).long()


def score_matrix(
    model: Any, task: CrossModalRetrieval, texts: Tensor, images: Tensor, device: torch.device
) -> tuple[Tensor, float]:
    """Cosines of all texts and pictures, by their rows, ``(T, I)`` on the CPU, and the loss of text to image, in nats.

    The loss is the mean of ``-log p``, ``p`` the sum of the softmax over a text's right pictures. The model is left in
    the mode it was in.
    """
    was_training = model.training
    model.eval()
    with torch.no_grad():
        pictures = torch.cat(
            [model.encode_images(to_device(task.features.image_batch(part), device)) for part in images.split(ENCODED)]
        )
        parts = []
        # Parts of one length, not a full and a short one: a control reads another text of its part.
        for part in texts.tensor_split(-(-len(texts) // ENCODED)):
            encoded = model.encode_texts(to_device(task.features.text_batch(part), device))
            for start in range(0, len(part), BLOCK):
                block = encoded[start : start + BLOCK]
                parts.append(torch.cat([model.score(block, some)[0] for some in pictures.split(BLOCK)], dim=1).cpu())
        scores = torch.cat(parts)
        relevant = task.relevance(texts, images)
        logits = scores.float() * model.scale().cpu()
        loss = logits.logsumexp(1) - logits.masked_fill(~relevant, -torch.inf).logsumexp(1)
    model.train(was_training)
    return scores, loss.mean().item()
