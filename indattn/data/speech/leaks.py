"""Whether sound alone tells where a phrase ends: small detectors that hear 310 ms of it and know no text.

Every detector tells two kinds of places apart, by the log-mel frames within 150 ms of them; it learns from utterances
of the train split and is tested on those of the test split, which have other captions. A detector that cannot do it has
an area under the ROC curve (AUC) of 0.5.

Places are the middles of pauses: boundaries of phrases, joints of recordings inside phrases, and false splices inside
recordings (:mod:`indattn.data.speech.joining`); *silences*: the quietest frame within 100 ms, where nothing is spliced.
**Matched** places are paired one to one with the most alike in loudness before, in and after the pause, so that no
detector can go by that; the worst 30% of the pairs are left out.

=======================================  ===============================================================================
boundary, any frame                      how much of a boundary can be heard at all
boundary, matched false splice           the same, without loudness and traces of splicing: how a phrase begins and ends
boundary, joint                          **must be 0.5**: what tells a boundary from all else that is like one
false splice, matched silence            the trace that splicing leaves
sides of a splice, sides of two          false splices against the left side of one with the right side of another, from
                                         another recording of the utterance: whether it is heard that recordings differ
=======================================  ===============================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

from indattn.data.speech.features import FRAME, STEP, log_mel
from indattn.data.speech.joining import Joined

__all__ = ["auc", "detect", "leaks", "longest_pauses", "matched", "places"]

AROUND = 15
"""Frames on either side of a place that a detector hears."""

MOST = 3000
"""Places of a kind and split."""

EPOCHS, BATCH = 12, 64
FALSE = ("pause", "silence", "anywhere")


@dataclass(frozen=True)
class Places:
    """Places of one split.

    Attributes:
        windows: ``(places, 31, 80)`` float32 decibels.
        kinds: ``(places,)`` str: those of a :class:`~indattn.data.speech.joining.Splice`, ``quiet``, ``frame``.
        utterances, recordings: ``(places,)`` int64, of a splice; the latter is -1 for other places.
    """

    windows: NDArray[np.float32]
    kinds: NDArray[np.str_]
    utterances: NDArray[np.int64]
    recordings: NDArray[np.int64]

    def of(self, *kinds: str) -> NDArray[np.float32]:
        """Windows of some kinds, at most :data:`MOST`."""
        return self.windows[np.isin(self.kinds, kinds)][:MOST]

    def exchanged(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """False splices, and the same with the right side of one in another recording of the same utterance."""
        false = np.isin(self.kinds, FALSE)
        rows, partners = [], []
        for number in np.unique(self.utterances[false]):
            here = np.flatnonzero(false & (self.utterances == number))
            for place, row in enumerate(here):
                after = np.roll(here, -place)
                other = after[self.recordings[after] != self.recordings[row]]
                rows += [row] * bool(len(other))
                partners += other[:1].tolist()
        mixed = np.concatenate([self.windows[rows, : AROUND + 1], self.windows[partners, AROUND + 1 :]], axis=1)
        return self.windows[rows][:MOST], mixed[:MOST]


def places(utterances: Sequence[Joined], draw: np.random.Generator) -> Places:
    """All splices of some utterances, the silences that are none, and as many frames anywhere as there are splices."""
    windows, kinds, numbers, recordings = [], [], [], []
    for number, one in enumerate(utterances):
        frames = log_mel(one.samples)
        at = np.array([int(splice.time / FRAME) for splice in one.splices], np.int64)
        quiet = _quiet(frames)
        inside = (quiet * FRAME > one.times[0, 0] + 0.1) & (quiet * FRAME < one.times[-1, 1] - 0.1)
        quiet = quiet[inside & (np.abs(quiet[:, None] - at).min(axis=1, initial=len(frames)) > AROUND)]
        anywhere = draw.integers(0, len(frames), len(at))
        padded = np.pad(frames, ((AROUND, AROUND), (0, 0)), mode="edge")
        rows = np.concatenate([at, quiet, anywhere])
        windows.append(padded[rows[:, None] + np.arange(2 * AROUND + 1)])
        kinds += [splice.kind for splice in one.splices] + ["quiet"] * len(quiet) + ["frame"] * len(anywhere)
        recordings += [splice.recording for splice in one.splices] + [-1] * (len(rows) - len(at))
        numbers += [number] * len(rows)
    decibels = np.concatenate(windows).astype(np.float32) * np.float32(STEP)
    return Places(decibels, np.array(kinds), np.array(numbers), np.array(recordings))


def _quiet(frames: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Frames that are the quietest within 100 ms."""
    level = frames.mean(axis=1)
    near = np.lib.stride_tricks.sliding_window_view(np.pad(level, 10, mode="edge"), 21)
    return np.flatnonzero(near.argmin(axis=1) == 10)


def matched(one: NDArray[np.float32], other: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """As many of both, paired so that loudness before, in and after the middle is as alike as can be, without the worst
    30% of the pairs.
    """
    few, many = (one, other) if len(one) <= len(other) else (other, one)
    rows, columns = linear_sum_assignment(cost := cdist(_loudness(few), _loudness(many)))
    good = np.sort(cost[rows, columns].argsort()[: max(1, int(0.7 * len(rows)))])
    few, many = few[rows[good]], many[columns[good]]
    return (few, many) if len(one) <= len(other) else (many, few)


def _loudness(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(windows, 5)``, in dB."""
    level = windows.mean(axis=2)
    return np.stack([part.mean(axis=1) for part in np.split(level, (6, 12, 19, 25), axis=1)], axis=1)


def auc(positive: NDArray[Any], negative: NDArray[Any]) -> float:
    """Chance that a positive score is above a negative one, ties counted half."""
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)]
    return float((ranks.sum() - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative)))


def detect(
    positive: NDArray[np.float32], negative: NDArray[np.float32], seed: int = 0
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Train a detector, a convolutional network of 20,000 weights; gives a function from windows to scores."""
    torch.manual_seed(seed)
    windows = torch.from_numpy(np.concatenate([positive, negative])).transpose(1, 2)
    wanted = torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))])
    mean, scale = windows.mean((0, 2), keepdim=True), windows.std((0, 2), keepdim=True) + 1e-3
    weight = torch.tensor(len(negative) / max(1, len(positive)))
    net = torch.nn.Sequential(
        torch.nn.Conv1d(80, 32, 5, padding=2),
        torch.nn.ReLU(),
        torch.nn.Conv1d(32, 32, 5, stride=2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(32 * 14, 1),
    )
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=weight)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(windows)).split(BATCH):
            optimiser.zero_grad()
            loss(net((windows[rows] - mean) / scale)[:, 0], wanted[rows]).backward()
            optimiser.step()
    net.eval()

    @torch.no_grad()
    def score(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = net((torch.from_numpy(windows).transpose(1, 2) - mean) / scale)[:, 0].numpy()
        return scores

    return score


def leaks(train: Sequence[Joined], test: Sequence[Joined]) -> list[dict[str, Any]]:
    """A row a comparison: ``comparison``, ``train`` and ``test`` (places), ``AUC`` of a detector on the test split."""
    draw = np.random.default_rng(0)
    learn, held = places(train, draw), places(test, draw)
    comparisons: dict[str, Callable[[Places], tuple[NDArray[np.float32], NDArray[np.float32]]]] = {
        "boundary, any frame": lambda part: (part.of("boundary"), part.of("frame")),
        "boundary, matched false splice": lambda part: matched(part.of("boundary"), part.of("pause", "silence")),
        "boundary, joint": lambda part: (part.of("boundary"), part.of("joint")),
        "false splice, matched silence": lambda part: matched(part.of("pause", "silence"), part.of("quiet")),
        "sides of a splice, sides of two": Places.exchanged,
    }
    rows = []
    for name, chosen in comparisons.items():
        pair, held_pair = chosen(learn), chosen(held)
        score = detect(*pair)
        rows.append(
            {
                "comparison": name,
                "train": sum(map(len, pair)),
                "test": sum(map(len, held_pair)),
                "AUC": auc(*map(score, held_pair)),
            }
        )
    return rows


def longest_pauses(utterances: Sequence[Joined]) -> dict[str, float]:
    """The baseline that takes the longest pauses for the boundaries: errors in seconds, and shares."""
    errors = []
    for one in utterances:
        frames = log_mel(one.samples)
        level = np.convolve(frames.mean(axis=1) * STEP, np.ones(3) / 3, mode="same")
        first, last = (one.times[[0, -1], [0, 1]] / FRAME).astype(int)
        soft = level[first:last] < np.percentile(level, 5) + 6
        changes = np.flatnonzero(np.diff(np.concatenate([[False], soft, [False]])))
        begins, ends = changes[::2], changes[1::2]
        order = np.argsort(begins - ends, kind="stable")[: len(one.times) - 1]
        guesses = np.sort((begins[order] + ends[order]) / 2 + first) * FRAME
        truth = (one.times[:-1, 1] + one.times[1:, 0]) / 2
        guesses = np.append(guesses, np.full(len(truth) - len(guesses), one.times[-1, 1]))
        errors.append(np.abs(np.sort(guesses) - truth))
    error = np.concatenate(errors)
    return {
        "median": float(np.median(error)),
        "mean": float(error.mean()),
        "within 50 ms": float((error < 0.05).mean()),
    }
