"""What a task is: data, the encoders and head it needs, loss, metrics, and the lines its figures draw."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from indattn.misalignment import Batch, Layout, Misalignment
from indattn.models.encoders import TokenEncoder

__all__ = ["Task", "batch_generator"]

SPLITS = {"train": 0, "validation": 1, "test": 2, "sample": 3, "orders": 4, "bound": 5}


def batch_generator(split: str, *key: int) -> Generator:
    """A generator of its own for each (split, key...).

    The seed is drawn by numpy's :class:`~numpy.random.SeedSequence` over split and key, so a batch depends on
    nothing but its key: training resumes at any step without replaying the ones before. (Torch keeps 32 bits of
    it on the CPU: two given streams coincide with probability 2e-10.)
    """
    state = np.random.SeedSequence([SPLITS[split], *key]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


@dataclass
class Task(abc.ABC):
    """A task over a context and a content, both token sequences, with classified outputs.

    Subclasses say what a batch is (:meth:`sample`) and which outputs are scored (:meth:`readout`). The
    constructor's arguments are the keys of ``configs/task/<name>.yaml``.

    Args:
        train_size: examples in a fixed training sample, drawn once by the run's seed; ``None`` draws fresh
            examples at every step.
        validation_size: examples of the validation split.
        test_size: examples of the test split, the same for every run.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]

    train_size: int | None = None
    validation_size: int = 500
    test_size: int = 2000

    # What a subclass declares --------------------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def layout(self) -> Layout:
        """Where things are in a batch."""

    @property
    @abc.abstractmethod
    def content_length(self) -> int:
        """n: tokens of the content."""

    @property
    @abc.abstractmethod
    def context_length(self) -> int:
        """Tokens of the context, at most :attr:`content_length`."""

    @property
    @abc.abstractmethod
    def scored_queries(self) -> int:
        """How many of the first queries :meth:`readout` needs."""

    @property
    @abc.abstractmethod
    def vocabularies(self) -> tuple[int, int]:
        """Number of different tokens in the context and in the content, marks included."""

    @property
    @abc.abstractmethod
    def classes(self) -> int:
        """Number of classes of an output."""

    #: Which sequence gives the queries of a cross-attention model: ``"context"`` or ``"content"``.
    cross_queries: ClassVar[str]

    @abc.abstractmethod
    def sample(self, count: int, generator: Generator) -> Batch:
        """``count`` aligned examples: ``context (B, n_c)``, ``content (B, n)``, ``targets (B, r)``, all int64."""

    @abc.abstractmethod
    def readout(self, states: Tensor, batch: Batch, queries: str) -> Tensor:
        """The ``r`` states that are scored: ``(B, m, width)`` to ``(B, r, width)``.

        Args:
            states: outputs of the last layer.
            batch: what :meth:`draw` gave.
            queries: the sequence whose positions the states stand for, ``"content"`` or ``"context"``.
        """

    @abc.abstractmethod
    def chance(self) -> float:
        """The best expected accuracy of a guess that never reads the context."""

    @abc.abstractmethod
    def ceiling(self, kind: str, noise: float) -> float | None:
        """The best achievable accuracy under a misalignment; ``None`` where it is not known."""

    def answer_positions(self, batch: Batch) -> Tensor | None:
        """Where in the content the value stands that answers each output, ``(B, r)``; ``None``: not one value."""
        return None

    # What follows from that ----------------------------------------------------------------------------------

    def draw(self, count: int, generator: Generator, misalignment: Misalignment) -> Batch:
        """``count`` misaligned examples."""
        return misalignment.apply(self.sample(count, generator), self.layout, generator)

    def split(self, split: str, misalignment: Misalignment, seed: int = 0) -> Batch:
        """All of the validation or test split; ``seed`` picks another split of the same distribution."""
        size = self.validation_size if split == "validation" else self.test_size
        return self.draw(size, batch_generator(split, seed), misalignment)

    def encoders(self, width: int) -> tuple[nn.Module, nn.Module]:
        """Modules from a batch to ``(B, n_c, width)`` context features and ``(B, n, width)`` content features."""
        context_vocabulary, content_vocabulary = self.vocabularies
        return (
            TokenEncoder("context", context_vocabulary, self.context_length, self.content_length, width),
            TokenEncoder("content", content_vocabulary, self.content_length, self.content_length, width),
        )

    def head(self, width: int) -> nn.Module:
        """From the states read out to logits."""
        return nn.Linear(width, self.classes)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy in nats; logits ``(B, r, classes)``."""
        return F.cross_entropy(logits.flatten(0, 1).float(), batch["targets"].flatten())

    def correct(self, logits: Tensor, batch: Batch) -> Tensor:
        """``(B, r)`` booleans: which outputs are right."""
        return logits.argmax(-1) == batch["targets"]
