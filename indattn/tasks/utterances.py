"""Utterances as models read them: which others an utterance may get speech and words from, batches, padding."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from indattn.data.speech.corpus import SpeechCorpus
from indattn.data.speech.drift import Examples
from indattn.errors import UserError
from indattn.misalignment import Batch, Misalignment
from indattn.models.alignment import CELL
from indattn.tasks.base import batch_generator

__all__ = ["Neighbours", "Utterances", "as_batch", "cut"]


class Source(Protocol):
    """What batches are drawn from: the task."""

    pool: int

    @property
    def speech(self) -> SpeechCorpus:
        """The corpus."""

    def draw(self, rows: NDArray[np.int64], misalignment: Misalignment, generator: Generator) -> Examples:
        """Some utterances, displaced."""


class Neighbours:
    """Which other speech, and which other words, an utterance may get: of its split, and speech of its voice."""

    def __init__(self, speech: SpeechCorpus) -> None:
        names = np.char.add(np.char.add(speech.splits, "\0"), speech.voices)
        _, self.groups = np.unique(names, return_inverse=True)
        self.order = np.argsort(self.groups, kind="stable")
        self.starts = np.searchsorted(self.groups[self.order], np.arange(self.groups.max() + 2))
        self.place = np.empty_like(self.order)
        self.place[self.order] = np.arange(len(self.order))
        self.splits = np.unique(speech.splits, return_inverse=True)[1]
        utterance = np.repeat(np.arange(len(speech)), np.diff(speech.segment_starts))
        self.segments = [np.flatnonzero(self.splits[utterance] == k) for k in range(self.splits.max() + 1)]

    def other_utterance(self, rows: NDArray[np.int64], share: NDArray[np.float64]) -> NDArray[np.int64]:
        """Another of the same voice; the utterance itself where there is none."""
        group = self.groups[rows]
        start, count = self.starts[group], self.starts[group + 1] - self.starts[group]
        further = 1 + (share * (count - 1)).astype(np.int64)
        return self.order[start + (self.place[rows] - start + further) % count]

    def other_words(self, rows: NDArray[np.int64], share: NDArray[np.float64]) -> NDArray[np.int64]:
        """Numbers of segments, ``(B, W)``."""
        made = np.empty(share.shape, np.int64)
        for k, segments in enumerate(self.segments):
            here = self.splits[rows] == k
            made[here] = segments[(share[here] * len(segments)).astype(np.int64)]
        return made


class Utterances:
    """Training batches by step: each epoch in another order, utterances of like length together."""

    def __init__(self, task: Source, misalignment: Misalignment, batch_size: int, seed: int) -> None:
        self.task, self.misalignment, self.batch_size, self.seed = task, misalignment, batch_size, seed
        self.rows = task.speech.rows("train")
        if len(self.rows) < batch_size:
            raise UserError(f"training.batch_size={batch_size}: there are {len(self.rows)} training utterances")
        self.epoch, self.batches = -1, np.empty((0, batch_size), np.int64)

    def batch(self, step: int) -> Batch:
        """The batch of a step (from 0)."""
        epoch, position = divmod(step, len(self.rows) // self.batch_size)
        if epoch != self.epoch:
            self.epoch, self.batches = epoch, self._order(epoch)
        generator = batch_generator("train", self.seed, 1, step)
        return as_batch(self.task.draw(self.batches[position], self.misalignment, generator))

    def _order(self, epoch: int) -> NDArray[np.int64]:
        generator = batch_generator("train", self.seed, 0, epoch)
        count = len(self.rows) // self.batch_size
        order = self.rows[torch.randperm(len(self.rows), generator=generator).numpy()[: count * self.batch_size]]
        lengths = np.diff(self.task.speech.frame_starts)[order]
        pool = np.arange(len(order)) // (self.task.pool * self.batch_size)
        batches = order[np.lexsort((lengths, pool))].reshape(count, self.batch_size)
        return batches[torch.randperm(count, generator=generator).numpy()]


def as_batch(examples: Examples) -> Batch:
    """What a model and the loss read, padded to whole cells."""
    frames = examples.frames
    frames = np.pad(frames, ((0, 0), (0, -frames.shape[1] % CELL), (0, 0)))
    keys = ("rows", "lengths", "tokens", "token_there", "token_words", "first", "last", "spans", "said", "words")
    return {
        "frames": torch.from_numpy(frames),
        **{key: torch.from_numpy(getattr(examples, key)) for key in (*keys, "word_spans")},
    }


def cut(batch: Batch) -> Batch:
    """Without the padding that none of these examples needs."""
    frames = -(-int(batch["lengths"].max()) // CELL) * CELL
    tokens, words = int(batch["token_there"].sum(1).max()), int((batch["words"] >= 0).sum(1).max())
    sizes = {"frames": frames, "words": words, "word_spans": words, "rows": None, "lengths": None}
    return {key: value if (size := sizes.get(key, tokens)) is None else value[:, :size] for key, value in batch.items()}
