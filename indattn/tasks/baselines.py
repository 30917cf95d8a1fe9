"""What the style test needs no learning for: look the text up, and find the nearest of the pictures it came with.

The style test's texts are of training items, only its pictures are new: an item's drawings by the other artists were
trained on, under its own text, or, where the pair was made wrong, under another's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from indattn.misalignment import Misalignment, Mismatch
from indattn.tasks.cross_modal_retrieval import ENCODED, CrossModalRetrieval
from indattn.tasks.ranking import ranks

__all__ = ["LOOKUPS", "Lookup", "frozen_mean", "pixels"]

PIXELS = 16
"""Side of the pictures that are compared pixel by pixel."""


def pixels(task: CrossModalRetrieval, images: Tensor) -> Tensor:
    """``(I, 768)``: pictures of 16 x 16 pixels; the larger an inner product of :func:`nearness`, the nearer."""
    return torch.from_numpy(task.pairs.images.read(images.tolist(), PIXELS)).flatten(1).float() / 255


def frozen_mean(task: CrossModalRetrieval, images: Tensor) -> Tensor:
    """``(I, w)``: the mean token of the frozen encoder, its stages normalised as the models read them, of length 1."""
    _, encoder = task.encoders()
    parts = [encoder(task.features.image_batch(part)).mean(1) for part in images.split(ENCODED)]
    return F.normalize(torch.cat(parts), dim=-1)


def nearness(queries: Tensor, keys: Tensor) -> Tensor:
    """``(Q, K)``: negated Euclidean distances; of vectors of length 1 they order as cosines do."""
    return -torch.cdist(queries, keys, compute_mode="donot_use_mm_for_euclid_dist")


LOOKUPS: dict[str, Callable[[CrossModalRetrieval, Tensor], Tensor]] = {"pixels": pixels, "frozen": frozen_mean}
"""What pictures are compared by."""


class Lookup:
    """Text lookup and nearest neighbour on the style test.

    A text's score with a held-out artist's picture is the nearness of the nearest training picture that is paired with
    the text. A text without a picture left scores all alike: its rank is in the middle of a tie.

    Args:
        task: with a held-out artist.
        name: one of :data:`LOOKUPS`.
    """

    def __init__(self, task: CrossModalRetrieval, name: str) -> None:
        self.task, self.name = task, name

    @functools.cached_property
    def _nearness(self) -> tuple[Tensor, Tensor]:
        """``(J, P)``: held-out pictures of the test and training pictures; where each training picture is in it."""
        train, _ = self.task.rows(self.task.pairs.items("train"), False)
        describe = LOOKUPS[self.name]
        style = self.task.split("test", Mismatch())["style_images"]
        place = torch.full((len(self.task.pairs.images),), -1)
        place[train] = torch.arange(len(train))
        with torch.no_grad():
            return nearness(describe(self.task, style), describe(self.task, train)), place

    def scores(self, misalignment: Misalignment, seed: int) -> Tensor:
        """``(T, J)`` scores of the style test's texts and pictures, the training pairs as this seed's runs had them."""
        data = self.task.training_data(misalignment, 1, seed)
        near, place = self._nearness
        items = torch.from_numpy(self.task.pairs.text_items)[self.task.split("test", misalignment)["style_texts"]]
        # Of each item whose text it may be, the best of the pictures paired with it.
        columns = near[:, place[data.images]]
        index = data.text_items.expand(len(columns), -1)
        least = torch.finfo(near.dtype).min
        best = torch.full((len(columns), int(self.task.pairs.image_items.max()) + 1), least)
        best.scatter_reduce_(1, index, columns, "amax")
        return best[:, items].T

    def test(self, misalignment: Misalignment, seed: int) -> dict[str, Any]:
        """Ranks both ways, as a run's result has them for each test."""
        split = self.task.split("test", misalignment)
        relevant = self.task.relevance(split["style_texts"], split["style_images"])
        scores = self.scores(misalignment, seed)
        of_texts: NDArray[np.float64] = ranks(scores, relevant)
        return {
            "texts": split["style_texts"].tolist(),
            "images": split["style_images"].tolist(),
            "text_ranks": of_texts.tolist(),
            "image_ranks": ranks(scores.T, relevant.T).tolist(),
        }
