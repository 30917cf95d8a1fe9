"""What a task is: data, the encoders and head it needs, loss, scores, and the lines its figures draw."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from indattn.errors import UserError
from indattn.misalignment import Batch, Layout, Misalignment
from indattn.models.encoders import TokenEncoder
from indattn.recording import record

__all__ = [
    "WHOLE",
    "Batches",
    "Counts",
    "Scores",
    "SequenceTask",
    "Task",
    "TrainingData",
    "batch_generator",
    "to_device",
]

SPLITS = {"train": 0, "validation": 1, "test": 2, "sample": 3, "orders": 4, "bound": 5}


def batch_generator(split: str, *key: int) -> Generator:
    """A generator of its own for each (split, key...).

    The seed is drawn by numpy's :class:`~numpy.random.SeedSequence` over split and key, so a batch depends on
    nothing but its key: training resumes at any step without replaying the ones before. (Torch keeps 32 bits of
    it on the CPU: two given streams coincide with probability 2e-10.)
    """
    state = np.random.SeedSequence([SPLITS[split], *key]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


Counts = dict[str, int]

WHOLE = "its batch cannot be split; train it in one process, with training.accumulate=1"


class Batches(Protocol):
    """Training batches by step: a step's batch depends on the seed and the step alone, so resuming needs no replay."""

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0."""


@dataclass
class Scores:
    """Scores on a split.

    Attributes:
        loss: the mean training loss, in nats.
        accuracy: the score that curves, tables and sweeps go by, between 0 and 1.
        more: other scores by name.
        per_example: what paired tests need of each example, in the split's order.
    """

    loss: float
    accuracy: float
    more: dict[str, float] = field(default_factory=dict)
    per_example: Any = None

    def as_dict(self) -> dict[str, float]:
        """All numbers but those of single examples."""
        return {"loss": self.loss, "accuracy": self.accuracy, **self.more}


@dataclass
class Task(abc.ABC):
    """What training, evaluation and figures ask of a task, whatever it is made of.

    The constructor's arguments are the keys of ``configs/task/<name>.yaml``.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]

    #: What :attr:`Scores.accuracy` is called in figures.
    metric: ClassVar[str] = "accuracy"

    @abc.abstractmethod
    def training_data(self, misalignment: Misalignment, batch_size: int, seed: int) -> Batches:
        """The batches that a run with this seed is trained on."""

    @abc.abstractmethod
    def split(self, split: str, misalignment: Misalignment, seed: int = 0) -> Batch:
        """All of the validation or test split; ``seed`` picks another split of the same distribution."""

    @abc.abstractmethod
    def loss(self, logits: Any, batch: Batch, whole: Counts | None = None) -> Tensor:
        """The training loss of what a model gave, in nats.

        Args:
            logits: what the model gave for the batch.
            batch: a batch, or some rows of one.
            whole: :meth:`counts` of the batch these rows are of. Sums are then divided by them, so that the losses of
                a batch's parts, and their gradients, add up to those of the batch.
        """

    def counts(self, batch: Batch) -> Counts:
        """Over how many outputs of a batch each mean in the loss goes, by name.

        Raises:
            UserError: if the loss is no such sum of means over rows (the default), and a batch must stay in one piece.
        """
        raise UserError(f"task {self.name} does not say how the losses of a batch's parts add up: {WHOLE}")

    @abc.abstractmethod
    def score(self, model: nn.Module, split: Batch, device: torch.device) -> Scores:
        """Scores of a model on a whole split; the model is left in the mode it was in."""

    @abc.abstractmethod
    def record(self, model: nn.Module, split: Batch, device: torch.device) -> dict[str, np.ndarray]:
        """What a run keeps of its model's inside, so that figures need no weights."""

    @abc.abstractmethod
    def chance(self) -> float | None:
        """The accuracy of a guess that reads nothing; ``None`` where no one number is."""

    def validation_chance(self) -> float | None:
        """The same on the validation split."""
        return self.chance()

    def corpus(self) -> dict[str, str]:
        """What tells the data apart that a run reads from files; nothing where they are drawn by the seed alone."""
        return {}

    @abc.abstractmethod
    def ceiling(self, kind: str, noise: float) -> float | None:
        """The best achievable accuracy under a misalignment; ``None`` where it is not known."""

    def says(self, result: dict[str, Any]) -> str:
        """A finished run's scores in one line."""
        reached = result["steps_to_0.9"] or "not reached"
        return f"test accuracy {result['test']['accuracy']:.4f}, steps to 0.9: {reached}"


class TrainingData:
    """Batches of a :class:`SequenceTask` by step."""

    def __init__(self, task: SequenceTask, misalignment: Misalignment, batch_size: int, seed: int) -> None:
        self.task, self.misalignment, self.batch_size, self.seed = task, misalignment, batch_size, seed
        self.fixed: Batch | None = None
        self.epoch, self.order = -1, torch.empty(0, dtype=torch.long)
        if task.train_size is not None:
            if task.train_size < batch_size:
                raise UserError(f"task.train_size={task.train_size} is less than training.batch_size={batch_size}")
            self.fixed = task.draw(task.train_size, batch_generator("sample", seed), misalignment)

    def batch(self, step: int) -> Batch:
        """The batch of a step (from 0). Fixed samples are reshuffled every epoch; a last part batch is left out."""
        if self.fixed is None:
            return self.task.draw(self.batch_size, batch_generator("train", self.seed, step), self.misalignment)
        size = len(self.fixed["targets"])
        epoch, position = divmod(step, size // self.batch_size)
        if epoch != self.epoch:
            self.epoch = epoch
            self.order = torch.randperm(size, generator=batch_generator("train", self.seed, epoch))
        chosen = self.order[position * self.batch_size : (position + 1) * self.batch_size]
        return {key: value[chosen] for key, value in self.fixed.items()}


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    return {key: value.to(device) for key, value in batch.items()}


@dataclass
class SequenceTask(Task):
    """A task over a context and a content, both token sequences, with classified outputs.

    Subclasses say what a batch is (:meth:`sample`) and which outputs are scored (:meth:`readout`).

    Args:
        train_size: examples in a fixed training sample, drawn once by the run's seed; ``None`` draws fresh
            examples at every step.
        validation_size: examples of the validation split.
        test_size: examples of the test split, the same for every run.
    """

    train_size: int | None = None
    validation_size: int = 500
    test_size: int = 2000

    #: Whether a model of the task reads sequences of any length, which the field ``n`` says.
    any_length: ClassVar[bool] = False

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
    def num_queries(self) -> int:
        """Queries of a model that is not told how many: one a token of the content."""
        return self.content_length

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

    def answer_positions(self, batch: Batch) -> Tensor | None:
        """Where in the content the value stands that answers each output, ``(B, r)``; ``None``: not one value."""
        return None

    # What follows from that ----------------------------------------------------------------------------------

    def __post_init__(self) -> None:
        for key in ("train_size", "validation_size", "test_size"):
            size = getattr(self, key)
            if size is not None and size < 1:
                raise UserError(f"task.{key}={size}: must be at least 1")

    def training_data(self, misalignment: Misalignment, batch_size: int, seed: int) -> TrainingData:
        """Fresh examples at every step, or a fixed sample."""
        return TrainingData(self, misalignment, batch_size, seed)

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

    def loss(self, logits: Tensor, batch: Batch, whole: Counts | None = None) -> Tensor:
        """Mean cross-entropy in nats; logits ``(B, r, classes)``."""
        logits, targets = logits.flatten(0, 1).float(), batch["targets"].flatten()
        if whole is None:
            return F.cross_entropy(logits, targets)
        return F.cross_entropy(logits, targets, reduction="sum") / whole["outputs"]

    def counts(self, batch: Batch) -> Counts:
        """``outputs``: all that are classified."""
        return {"outputs": batch["targets"].numel()}

    def correct(self, logits: Tensor, batch: Batch) -> Tensor:
        """``(B, r)`` booleans: which outputs are right."""
        return logits.argmax(-1) == batch["targets"]

    def score(self, model: nn.Module, split: Batch, device: torch.device, batch_size: int = 500) -> Scores:
        """``accuracy``: outputs that are right; ``exact``: examples whose outputs all are; how many in each example."""
        was_training = model.training
        model.eval()
        losses: list[float] = []
        right: list[Tensor] = []
        size = len(split["targets"])
        with torch.no_grad():
            for start in range(0, size, batch_size):
                batch = to_device({k: v[start : start + batch_size] for k, v in split.items()}, device)
                logits, _ = model(batch)
                losses.append(self.loss(logits, batch).item() * len(batch["targets"]))
                right.append(self.correct(logits, batch).cpu())
        model.train(was_training)
        correct = torch.cat(right)
        return Scores(
            loss=sum(losses) / size,
            accuracy=correct.double().mean().item(),
            more={"exact": correct.all(1).double().mean().item()},
            per_example=correct.sum(1).tolist(),
        )

    def record(self, model: nn.Module, split: Batch, device: torch.device) -> dict[str, np.ndarray]:
        """Bias, centres, sharpness and attention maps (:func:`indattn.recording.record`)."""
        return record(model, to_device({k: v[:64] for k, v in split.items()}, device))
