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

Of 600 utterances to learn from and all 400 of the test split, the areas were .96, .92, .51 (standard error .013), .90
and .73: joins of recordings are easily heard, and none tells whether a phrase ends there. Without the text, 53% of the
boundaries are found to 50 ms, and 30% of the guesses are joints; 60% of the joins are boundaries, and no ear can do
better than that.
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
from tqdm import tqdm

from indattn.data.speech.clips import load_clips
from indattn.data.speech.features import FRAME, decibels, log_mel
from indattn.data.speech.human import Recipe, draw
from indattn.data.speech.joining import Joined

__all__ = ["Places", "auc", "check", "detect", "leaks", "matched", "places", "without_text"]

AROUND = 15
"""Frames on either side of a place that a detector hears."""

MOST = 3000
"""Places of a kind and split."""

NEAR = 0.05
"""Seconds."""

EPOCHS, BATCH = 12, 64
FALSE = ("pause", "silence", "anywhere")


@dataclass(frozen=True)
class Places:
    """Places of one split.

    Attributes:
        windows: ``(places, 31, 80)`` uint8 codes of log-mel frames.
        kinds: ``(places,)`` str: those of a :class:`~indattn.data.speech.joining.Splice`, ``quiet``, ``frame``.
        utterances, recordings: ``(places,)`` int64, of a splice; the latter is -1 for other places.
    """

    windows: NDArray[np.uint8]
    kinds: NDArray[np.str_]
    utterances: NDArray[np.int64]
    recordings: NDArray[np.int64]

    def of(self, *kinds: str) -> NDArray[np.float32]:
        """``(places, 31, 80)`` dB of some kinds, at most :data:`MOST`."""
        return decibels(self.windows[np.isin(self.kinds, kinds)][:MOST])

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
        return decibels(self.windows[rows][:MOST]), decibels(mixed[:MOST])


def places(utterances: Sequence[Joined], chance: np.random.Generator) -> Places:
    """All splices of some utterances, the silences that are none, and as many frames anywhere as there are splices."""
    windows, kinds, numbers, recordings = [], [], [], []
    for number, one in enumerate(utterances):
        frames = log_mel(one.samples)
        at = np.array([int(splice.time / FRAME) for splice in one.splices], np.int64)
        quiet = _quiet(frames)
        inside = (quiet * FRAME > one.times[0, 0] + 0.1) & (quiet * FRAME < one.times[-1, 1] - 0.1)
        quiet = quiet[inside & (np.abs(quiet[:, None] - at).min(axis=1, initial=len(frames)) > AROUND)]
        anywhere = chance.integers(0, len(frames), len(at))
        rows = np.concatenate([at, quiet, anywhere])
        windows.append(_windows(frames, rows))
        kinds += [splice.kind for splice in one.splices] + ["quiet"] * len(quiet) + ["frame"] * len(anywhere)
        recordings += [splice.recording for splice in one.splices] + [-1] * (len(rows) - len(at))
        numbers += [number] * len(rows)
    return Places(np.concatenate(windows), np.array(kinds), np.array(numbers), np.array(recordings))


def _windows(frames: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """``(len(rows), 31, 80)``, the first and last frame repeated beyond the ends."""
    padded = np.pad(frames, ((AROUND, AROUND), (0, 0)), mode="edge")
    return padded[rows[:, None] + np.arange(2 * AROUND + 1)]


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


COMPARISONS: dict[str, Callable[[Places], tuple[NDArray[np.float32], NDArray[np.float32]]]] = {
    "boundary, any frame": lambda part: (part.of("boundary"), part.of("frame")),
    "boundary, matched false splice": lambda part: matched(part.of("boundary"), part.of("pause", "silence")),
    "boundary, joint": lambda part: (part.of("boundary"), part.of("joint")),
    "false splice, matched silence": lambda part: matched(part.of("pause", "silence"), part.of("quiet")),
    "sides of a splice, sides of two": Places.exchanged,
}


def leaks(train: Places, test: Places) -> list[dict[str, Any]]:
    """A row a comparison: ``places``, ``train`` and ``test`` (their numbers), ``AUC`` of a detector on the latter."""
    rows = []
    for name, chosen in COMPARISONS.items():
        pair, held_pair = chosen(train), chosen(test)
        score = detect(*pair)
        rows.append(
            {
                "places": name,
                "train": sum(map(len, pair)),
                "test": sum(map(len, held_pair)),
                "AUC": round(auc(*map(score, held_pair)), 3),
            }
        )
    return rows


def without_text(train: Places, test: Sequence[Joined]) -> list[dict[str, Any]]:
    """What finds boundaries without the text, but with the number of them.

    Returns:
        A row a method: the longest pauses, the silences that a detector of boundaries finds likeliest, and silences
        drawn by chance. ``median`` and ``mean`` are of the errors in seconds, in order of time: first guess and first
        boundary and so on, and ``within 50 ms`` the share of them that is. In any order: ``found`` is the share of
        guesses (and as good as of boundaries) that are right to 50 ms, ``joints`` of those that are a joint.
    """
    chance = np.random.default_rng(0)
    score = detect(train.of("boundary"), train.of("frame", "quiet", *FALSE))
    errors: dict[str, list[NDArray[np.float64]]] = {}
    hits: dict[str, list[NDArray[np.bool_]]] = {}
    for one in test:
        frames = log_mel(one.samples)
        soft, lengths = _pauses(frames)
        middles = _quiet(frames)
        inside = (middles * FRAME > one.times[0, 0] + 0.1) & (middles * FRAME < one.times[-1, 1] - 0.1)
        middles = middles[inside]
        count = len(one.times) - 1
        likely = score(decibels(_windows(frames, middles)))
        guessed = {
            "longest pauses": soft[np.argsort(-lengths, kind="stable")][:count],
            "likeliest silences": middles[np.argsort(-likely, kind="stable")][:count],
            "any silences": chance.permutation(middles)[:count],
        }
        truth = (one.times[:-1, 1] + one.times[1:, 0]) / 2
        others = np.array([splice.time for splice in one.splices if splice.kind == "joint"])
        for method, guess in guessed.items():
            times = np.append((guess + 0.5) * FRAME, np.full(count - len(guess), one.times[-1, 1]))
            errors.setdefault(method, []).append(np.abs(np.sort(times) - truth))
            near = [np.abs(times[:, None] - place).min(axis=1, initial=np.inf) < NEAR for place in (truth, others)]
            hits.setdefault(method, []).append(np.stack(near))
    rows = []
    for method, parts in errors.items():
        error, (found, joints) = np.concatenate(parts), np.concatenate(hits[method], axis=1).mean(axis=1)
        rows.append(
            {
                "places": method,
                "median": round(float(np.median(error)), 3),
                "mean": round(float(error.mean()), 3),
                "within 50 ms": round(float((error < NEAR).mean()), 3),
                "found": round(float(found), 3),
                "joints": round(float(joints), 3),
            }
        )
    return rows


def _pauses(frames: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Middles, in frames, and lengths of the stretches that are within 6 dB of the noise, not at the ends."""
    level = np.convolve(decibels(frames).mean(axis=1), np.ones(3) / 3, mode="same")
    soft = level < np.percentile(level, 5) + 6
    changes = np.flatnonzero(np.diff(np.concatenate([[False], soft, [False]]).astype(np.int8)))
    begins, ends = changes[::2], changes[1::2]
    inner = (begins > 0) & (ends < len(frames))
    return (begins[inner] + ends[inner] - 1) / 2, (ends - begins)[inner]


def check(progress: bool = True, counts: tuple[int, int] = (600, 400)) -> list[dict[str, Any]]:
    """:func:`leaks` and :func:`without_text` of the first utterances of the human corpus. A minute and a half.

    Args:
        progress: whether to show a bar.
        counts: utterances of the train and of the test split.

    Raises:
        UserError: if the recordings are not prepared, or a package is missing.
    """
    recipe, clips = Recipe(), load_clips()
    todo = [(split, row) for split, count in zip(("train", "test"), counts, strict=True) for row in range(count)]
    bar = tqdm(todo, desc="human", unit="utterance", disable=not progress)
    made = [draw(clips, split, row, recipe)[1] for split, row in bar]
    train, test = made[: counts[0]], made[counts[0] :]
    chance = np.random.default_rng(0)
    learn = places(train, chance)
    return [*leaks(learn, places(test, chance)), *without_text(learn, test)]
