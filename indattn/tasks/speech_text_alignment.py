"""Speech-text alignment: when each word of a transcript is said, in a recording that has slipped against it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from indattn.alignment.decode import decode_boundaries, decode_frames, refined, word_times
from indattn.alignment.scores import word_errors
from indattn.data.speech.corpus import SPLITS, SpeechCorpus
from indattn.data.speech.drift import KNOTS, Draws, Examples, displaced
from indattn.data.speech.features import FRAME
from indattn.errors import UserError
from indattn.misalignment import Batch, Misalignment
from indattn.models.alignment import CELL, Aligned
from indattn.tasks.base import Counts, Scores, Task, batch_generator, to_device
from indattn.tasks.utterances import Neighbours, Utterances, as_batch, cut

__all__ = ["SpeechTextAlignment"]

FORMULATIONS = ("centres", "pointer", "frames")

TERMS = ("spans", "starts", "ends", "frames")
"""Means in the loss."""

EXAMPLES = 4
"""Examples of the test that are recorded."""

REACH = 50
"""Cells on either side at which f is recorded."""

SCORED = 50
"""Examples that are scored at once."""

UNIT = 0.1 / FRAME
"""Frames that count as one in the loss of spans."""

BETA = 0.1
"""Errors below it, in those units, count squared."""

SKIPS = {"pointer": -3.0, "frames": -3.0}
"""Scores below which a word is held not to be said: of a pointer's boundaries, how much more probable the place is than
"not said", in the mean; of frames, log-probabilities a token. Of those tried, with these most words of the validation
split lie within 50 ms (cross-attention, noise 0.5; `indattn evaluate RUN split=validation skip=[...]`)."""


@dataclass
class SpeechTextAlignment(Task):
    """Find the start and the end of every word of a transcript in a recording.

    Args:
        data: the corpus (:func:`~indattn.data.speech.load.load_speech`).
        formulation: ``centres``: the spans that a model's layers refine are the prediction, supervised in every layer
            by the smooth L1 distance of starts and ends; ``pointer``: each token points at the frames in which it
            starts and ends, trained by cross-entropy beside the spans, decoded by dynamic programming that may leave
            out words; ``frames``: each frame points at the token that is said, decoded by Viterbi's algorithm.
        pool: batches whose utterances are sorted by length together.
    """

    name: ClassVar[str] = "speech_text_alignment"
    kinds: ClassVar[tuple[str, ...]] = ("drift",)
    metric: ClassVar[str] = "word starts within 50 ms"
    family: ClassVar[str] = "indattn.models.alignment"

    data: str = "synthetic"
    formulation: str = "centres"
    pool: int = 8

    #: In place of :data:`SKIPS`; no part of a configuration, for it changes no training (`indattn evaluate skip=X`).
    skip: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.formulation not in FORMULATIONS:
            raise UserError(f"task.formulation={self.formulation}: must be {', '.join(FORMULATIONS)}")
        if self.pool < 1:
            raise UserError(f"task.pool={self.pool}: must be at least 1")

    @property
    def _skip(self) -> float:
        return SKIPS[self.formulation] if self.skip is None else self.skip

    # The corpus ----------------------------------------------------------------------------------------------

    @functools.cached_property
    def speech(self) -> SpeechCorpus:
        """Utterances and what is said in them."""
        from indattn.data.speech.load import load_speech

        return load_speech(self.data)

    @property
    def bands(self) -> int:
        """Bands of a frame."""
        return self.speech.frames.shape[1]

    @functools.cached_property
    def inventory(self) -> Tensor:
        """``(phones, 3)`` uint8: the phones of the training split, or of all where there is none."""
        rows = self.speech.rows("train")
        rows = rows if len(rows) else np.arange(len(self.speech))
        return torch.from_numpy(np.unique(self.speech.tokens[_members(self.speech.token_starts, rows)], axis=0))

    def draw(self, rows: NDArray[np.int64], misalignment: Misalignment, generator: Generator) -> Examples:
        """Some utterances, displaced: other speech is of the same split and voice, other words are of the same split.

        The lead-in is the same voice's so that a change of voice does not tell where it ends.
        """
        speech = self.speech
        counts = torch.from_numpy(speech.segment_starts[rows + 1] - speech.segment_starts[rows])
        drawn = misalignment.apply({"word_counts": counts, "parts": torch.tensor(KNOTS)}, None, generator)
        split = self._neighbours
        before = split.other_utterance(rows, drawn["before"].numpy())
        return displaced(
            speech,
            Draws(
                rows=rows,
                before=before,
                lead=drawn["lead"].numpy(),
                tempo=drawn["tempo"].numpy(),
                left_out=drawn["left_out"].numpy(),
                put_in=drawn["put_in"].numpy(),
                strangers=split.other_words(rows, drawn["strangers"].numpy()),
            ),
        )

    @functools.cached_property
    def _neighbours(self) -> Neighbours:
        return Neighbours(self.speech)

    # Training ------------------------------------------------------------------------------------------------

    def training_data(self, misalignment: Misalignment, batch_size: int, seed: int) -> Utterances:
        """Batches of utterances, displaced anew every time.

        Raises:
            UserError: if one of the splits is empty, or there are fewer training utterances than a batch has.
        """
        for split in SPLITS:
            self._rows(split)
        return Utterances(self, misalignment, batch_size, seed)

    def loss(self, logits: Aligned, batch: Batch, whole: Counts | None = None) -> Tensor:
        """The mean over layers of the spans' distance, and the cross-entropy of what the formulation reads, in nats."""
        reduction = "mean" if whole is None else "sum"
        over = dict.fromkeys(TERMS, 1) if whole is None else whole
        loss = torch.zeros((), device=batch["frames"].device)
        known = ~batch["spans"].isnan()
        for spans in logits.spans:
            distance = F.smooth_l1_loss(
                spans[known] / UNIT, batch["spans"][known] / UNIT, beta=BETA, reduction=reduction
            )
            loss = loss + distance / over["spans"] / len(logits.spans)
        if logits.starts is not None and logits.ends is not None:
            for k, (term, scores) in enumerate((("starts", logits.starts), ("ends", logits.ends))):
                target = _edge_target(batch, k, scores.shape[-1] - 1)
                loss = loss + _cross_entropy(scores, target, reduction) / over[term] / 2
        if logits.frames is not None:
            target = _labelled(batch, logits.frames.shape[1])
            entropy = F.nll_loss(logits.frames.flatten(0, 1), target.flatten(), ignore_index=-1, reduction=reduction)
            loss = loss + entropy / over["frames"]
        return loss

    def counts(self, batch: Batch) -> Counts:
        """Times that are known, tokens of which it is known where (or that no) start and end are, and frames."""
        frames = batch["frames"].shape[1]
        targets = {
            "starts": _edge_target(batch, 0, frames),
            "ends": _edge_target(batch, 1, frames),
            "frames": _labelled(batch, frames),
        }
        return {
            "spans": int((~batch["spans"].isnan()).sum()),
            **{term: int((target != -1).sum()) for term, target in targets.items()},
        }

    # Tests ---------------------------------------------------------------------------------------------------

    def split(self, split: str, misalignment: Misalignment, seed: int = 0) -> Batch:
        """All of the validation or test split, displaced once; ``seed`` displaces it otherwise."""
        rows = self._rows(split)
        return as_batch(self.draw(rows, misalignment, batch_generator(split, seed)))

    def _rows(self, split: str) -> NDArray[np.int64]:
        rows = self.speech.rows(split)
        if not len(rows):
            raise UserError(f"task.data={self.data}: no utterance in split {split!r}")
        return rows

    def predict(self, model: nn.Module, split: Batch, device: torch.device) -> tuple[NDArray[np.float32], float]:
        """``(examples, W, 2)`` starts and ends of a split's words in frames, NaN where a word is held not to be said,
        and the mean loss."""
        was_training = model.training
        model.eval()
        made = np.full((*split["words"].shape, 2), np.nan, np.float32)
        order = split["lengths"].argsort(descending=True)
        total = 0.0
        with torch.no_grad():
            for rows in order.split(SCORED):
                batch = to_device(cut({key: value[rows] for key, value in split.items()}), device)
                aligned, _ = model(batch)
                total += self.loss(aligned, batch).item() * len(rows)
                made[rows, : batch["words"].shape[1]] = self.decode(aligned, batch)
        model.train(was_training)
        return made, total / len(order)

    def decode(self, aligned: Aligned, batch: Batch) -> NDArray[np.float32]:
        """``(B, W, 2)`` starts and ends of words in frames; NaN where one is held not to be said."""
        if aligned.starts is not None and aligned.ends is not None:
            return _pointed_at(aligned.starts, aligned.ends, batch, self._skip)
        if aligned.frames is not None:
            return _viterbi(aligned.frames, batch, self._skip)
        return _outer(aligned.spans[-1], batch)

    def score(self, model: nn.Module, split: Batch, device: torch.device) -> Scores:
        """``accuracy``: said words whose start is within 50 ms; beside it :data:`~indattn.alignment.scores.METRICS`.

        Of each said word, in the split's order, its utterance and the errors of its start and end in ms, null where it
        is held not to be said.
        """
        spans, loss = self.predict(model, split, device)
        return self.scored(spans, split, loss)

    def scored(self, spans: NDArray[np.float32], split: Batch, loss: float = 0.0) -> Scores:
        """Scores of words' times ``(examples, W, 2)`` in frames, whoever found them."""
        there = split["words"].numpy() >= 0
        true = FRAME * split["word_spans"].numpy().astype(float)
        found = FRAME * spans.astype(float)
        errors = word_errors(
            [one[own] for one, own in zip(true, there, strict=True)],
            [one[own] for one, own in zip(found, there, strict=True)],
            (FRAME * split["lengths"].numpy()).tolist(),
        )
        said = ~np.isnan(true[..., 0])
        utterance, word = said.nonzero()
        signed = 1000 * (found - true)[utterance, word]
        return Scores(
            loss=loss,
            accuracy=errors.metric("start_within_50"),
            more=errors.summary(),
            per_example={
                "utterance": utterance.tolist(),
                **{
                    key: [None if np.isnan(x) else round(float(x), 1) for x in signed[:, k]]
                    for k, key in enumerate(("start", "end"))
                },
            },
        )

    def record(self, model: Any, split: Batch, device: torch.device) -> dict[str, np.ndarray]:
        """The spans of some examples through the layers, and each layer's f.

        ``frames (E, T, 80)`` log-mel codes, ``lengths (E,)``, ``token_there``, ``token_words``, ``first``, ``last
        (E, m)``, ``words (E, W)`` texts and ``word_spans (E, W, 2)`` the true ones in frames; where the model refines
        spans ``layer_spans (layers + 1, E, m, 2)``, those it starts from first; with a bias ``span_offsets`` in frames
        and ``span_bias (layers, H, offsets)``.
        """
        chosen = torch.linspace(0, len(split["lengths"]) - 1, min(EXAMPLES, len(split["lengths"]))).long()
        batch = cut({key: value[chosen] for key, value in split.items()})
        was_training = model.training
        model.eval()
        recorded: dict[str, Any] = {
            key: batch[key]
            for key in ("frames", "lengths", "token_there", "token_words", "first", "last", "word_spans")
        }
        with torch.no_grad():
            aligned, _ = model(to_device(batch, device))
            if aligned.spans:
                recorded["layer_spans"] = torch.stack([aligned.start, *aligned.spans])
                biases = [layer.attention.bias for layer in model.decoder.layers]
                if biases[0] is not None:
                    reach = torch.arange(-REACH, REACH + 1, device=device, dtype=torch.float32)
                    recorded["span_offsets"] = CELL * reach
                    recorded["span_bias"] = torch.stack([bias(reach).T for bias in biases])
        model.train(was_training)
        texts = np.where(batch["words"].numpy() >= 0, self.speech.segments[batch["words"].numpy()], "")
        return {**{key: np.asarray(value.cpu()) for key, value in recorded.items()}, "words": texts.astype(str)}

    def chance(self) -> None:
        """No one number: how far a guess is off depends on the recording. Tables have the even spread."""

    def says(self, result: dict[str, Any]) -> str:
        """Errors of the words' starts."""
        test = result["test"]
        return (
            f"word starts: median {test['start_median_ms']:.1f} ms, mean {test['start_mean_ms']:.1f} ms, "
            f"{100 * test['start_within_50']:.1f}% within 50 ms"
        )

    def ceiling(self, kind: str, noise: float) -> float | None:
        """Not known."""
        return None

    def corpus(self) -> dict[str, str]:
        """The corpus and the digest of what it was made of."""
        return {"data": self.data, "fingerprint": self.speech.fingerprint}


def _pointed(batch: Batch, edge: int, none: int) -> Tensor:
    """The frame at which each token starts (0) or ends (1), ``none`` if it is not said, -1 if nobody knows."""
    times = batch["spans"][..., edge]
    frame = times.nan_to_num().round().long().clamp(min=0)
    frame = torch.minimum(frame, batch["lengths"].unsqueeze(1) - 1)
    target = torch.where(times.isnan(), -1, frame)
    target = torch.where(batch["said"], target, none)
    return torch.where(batch["token_there"], target, -1)


def _edge_target(batch: Batch, edge: int, none: int) -> Tensor:
    """What tokens point at as their start (0), or as their end (1) where they are the last of a word; else -1."""
    target = _pointed(batch, edge, none)
    return target if edge == 0 else torch.where(batch["last"], target, -1)


def _cross_entropy(scores: Tensor, target: Tensor, reduction: str) -> Tensor:
    """Of ``(B, m, classes)`` against ``(B, m)``, -1 left out."""
    return F.cross_entropy(scores.flatten(0, 1), target.flatten(), ignore_index=-1, reduction=reduction)


def _labelled(batch: Batch, frames: int) -> Tensor:
    """``(B, T)``: which token is said in each frame, as many as there are for none, -1 behind a recording's end."""
    spans = batch["spans"]
    middle = torch.arange(frames, device=spans.device) + 0.5
    inside = (middle >= spans[..., :1]) & (middle < spans[..., 1:])  # NaN: never
    label = torch.where(inside.any(1), inside.to(torch.int8).argmax(1), spans.shape[1])
    return torch.where(middle < batch["lengths"].unsqueeze(1), label, -1)


def _pointed_at(starts: Tensor, ends: Tensor, batch: Batch, skip: float) -> NDArray[np.float32]:
    """The best boundaries in order, a word being left out where its tokens rather point at none."""
    logs = torch.stack([starts, ends], 2).float().log_softmax(-1)
    scores = (logs[..., :-1] - logs[..., -1:]).cpu().numpy()
    there = batch["token_there"]
    rows = torch.stack([there, there & batch["last"]], 2).cpu().numpy()
    lengths = batch["lengths"].tolist()
    chains = [one[own][:, :length] for one, own, length in zip(scores, rows, lengths, strict=True)]
    words = _word_lengths(batch)
    made = np.full((len(chains), batch["words"].shape[1], 2), np.nan, np.float32)
    found = decode_boundaries(chains, words, skip=skip)
    for row, (chain, sizes, path) in enumerate(zip(chains, words, found, strict=True)):
        made[row, : len(sizes)] = word_times(refined(chain, path.times), sizes)
    return made


def _viterbi(frames: Tensor, batch: Batch, skip: float) -> NDArray[np.float32]:
    """The best assignment of frames to tokens in order."""
    words = _word_lengths(batch)
    scores = []
    for one, length, sizes in zip(frames.float().cpu().numpy(), batch["lengths"].tolist(), words, strict=True):
        count = int(sizes.sum())
        scores.append(np.concatenate([one[:length, :count], one[:length, -1:]], 1))
    made = np.full((len(scores), batch["words"].shape[1], 2), np.nan, np.float32)
    for row, (sizes, path) in enumerate(zip(words, decode_frames(scores, words, skip=skip), strict=True)):
        last = np.cumsum(sizes) - 1
        times = np.stack([path.starts[last - sizes + 1], path.ends[last]], 1)
        made[row, : len(sizes)] = np.where(path.said[:, None], times, np.nan)
    return made


def _word_lengths(batch: Batch) -> list[NDArray[np.int64]]:
    """Of each example, the tokens of each word."""
    words, there = batch["token_words"].cpu().numpy(), batch["token_there"].cpu().numpy()
    return [np.bincount(row[own]) for row, own in zip(words, there, strict=True)]


def _outer(spans: Tensor, batch: Batch) -> NDArray[np.float32]:
    """From the start of a word's first token to the end of its last."""
    count = batch["words"].shape[1]
    made = torch.full((len(spans), count, 2), torch.nan, device=spans.device)
    for k, edge in enumerate(("first", "last")):
        example, token = batch[edge].nonzero(as_tuple=True)
        made[example, batch["token_words"][example, token], k] = spans[example, token, k]
    return made.cpu().numpy()


def _members(starts: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of what belongs to some utterances."""
    return np.concatenate([np.arange(starts[row], starts[row + 1]) for row in rows])
