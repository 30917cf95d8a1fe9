"""Long recordings, simulated: peaks near the true times, noise, false peaks, music, words nobody says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indattn.alignment.confidence import boundary_confidences, word_confidences
from indattn.alignment.decode import decode_boundaries, word_times
from indattn.alignment.windows import align_in_windows
from indattn.errors import UserError


class Recording:
    """A transcript, true times, and scores as of a model that is often right.

    Args:
        words: how many are said.
        unsaid: ``(word, count)`` words of the transcript put before a word that nobody says.
        music: ``(word, frames)`` put before a word.
        pace: frames of a phone, on average.
        height: of true peaks, in standard deviations of the noise; those of false ones are uniform up to it.
        false: false peaks of a boundary in 1,000 frames.
        drift: largest error of the peaks, in frames; it wanders slowly.
    """

    def __init__(self, words, unsaid=(), music=(), pace=7.0, height=7.0, false=8.0, drift=2.0, seed=0):
        random = np.random.default_rng(seed)
        self.seed, self.height, self.false = seed, height, false
        lengths = random.integers(1, 9, words)
        durations = 2 + random.poisson(pace - 2, lengths.sum())
        pauses = np.where(random.random(words) < 0.15, random.integers(10, 60, words), random.integers(0, 2, words))
        for word, count in music:
            pauses[word] += count
        times, frame, at = [], 0, 0
        for word, length in enumerate(lengths):
            frame += pauses[word]
            times.append(frame + np.concatenate([[0], np.cumsum(durations[at : at + length])]))
            frame, at = int(times[-1][-1]), at + length
        said = [True] * words
        lengths = lengths.tolist()
        for word, count in sorted(unsaid, reverse=True):
            extra = random.integers(1, 9, count).tolist()
            lengths[word:word], said[word:word] = extra, [False] * count
            times[word:word] = [np.full(length + 1, -1) for length in extra]
        self.lengths, self.said, self.times = np.array(lengths), np.array(said), np.concatenate(times)
        self.frames = frame + 40
        wander = np.interp(np.arange(self.frames), np.arange(0, self.frames + 500, 500),
                           random.uniform(-drift, drift, self.frames // 500 + 2))[: self.frames]  # fmt: skip
        self.peaks = np.where(self.times < 0, -1, self.times + np.rint(wander[self.times]).astype(int))
        self.rows = np.concatenate([[0], np.cumsum(self.lengths + 1)])

    def logits(self, first_frame, last_frame, first_word, last_word):
        random = np.random.default_rng([self.seed, first_frame, last_frame, first_word])
        peaks = self.peaks[self.rows[first_word] : self.rows[last_word]] - first_frame
        frames = last_frame - first_frame
        logits = random.standard_normal((len(peaks), frames)).astype(np.float32)
        rows = np.repeat(np.arange(len(peaks)), random.poisson(self.false * frames / 1000, len(peaks)))
        places = random.integers(0, frames, len(rows))
        rows, places = np.append(rows, np.arange(len(peaks))), np.append(places, peaks)
        heights = np.append(random.uniform(0, self.height, len(rows) - len(peaks)), np.full(len(peaks), self.height))
        heights[len(rows) - len(peaks) :][self.times[self.rows[first_word] : self.rows[last_word]] < 0] = 0
        for step in range(-3, 4):
            inside = (places + step >= 0) & (places + step < frames) & (heights > 0)
            np.add.at(logits, (rows[inside], places[inside] + step), heights[inside] * np.exp(-(step**2) / 3))
        return logits

    def scores(self, *place):
        logits = self.logits(*place)
        return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)

    def errors(self, found):
        """Absolute errors of starts and ends of words said and found, in frames; words lost; words invented."""
        both = self.said & found.said
        true, put = word_times(self.times, self.lengths), word_times(found.times, self.lengths)
        return np.abs(true - put)[both], np.mean(~found.said[self.said]), int((found.said & ~self.said).sum())


def check_contract(found, lengths, frames, options):
    """What must hold of any result, right or wrong."""
    rows = np.concatenate([[0], np.cumsum(lengths + 1)])
    times = found.times[np.repeat(found.said, lengths + 1)]
    assert (found.times[~np.repeat(found.said, lengths + 1)] == -1).all()
    assert ((times >= 0) & (times < frames)).all()
    steps = np.diff(times)
    inside = np.ones(len(times), bool)
    inside[np.concatenate([[0], np.cumsum(lengths[found.said] + 1)])[:-1]] = False
    assert (steps >= inside[1:]).all()
    assert (np.isnan(found.confidences) == ~found.said).all()
    assert (found.confidences[found.said] <= 1).all()
    window, widest = options.get("window", 1000), options.get("widest", 8)
    most = 1.5 * widest * window / 7 + lengths.max() + 1
    for first_frame, last_frame, first_word, last_word in found.windows:
        assert last_frame - first_frame == min(window, frames)  # log-scores mean the same in all
        assert last_word > first_word
        assert lengths[first_word:last_word].sum() <= most
    assert (np.diff(found.windows[:, [0, 2]], axis=0) >= 0).all()
    assert len(rows) - 1 == len(found.said)


CASES = {
    "both": {"music": [(0, 900), (60, 1000)], "unsaid": [(0, 8), (59, 40), (100, 30)]},
    "unsaid": {"unsaid": [(0, 8), (40, 4), (60, 60)]},
    "fast": {"pace": 4.0},
    "slow": {"pace": 12.0},
}


@pytest.mark.parametrize("name", CASES)
def test_words_are_found_despite_what_is_not_said_or_not_written(name):
    recording = Recording(100, **CASES[name], seed=1)
    options = {"window": 600, "guard": 150}
    found = align_in_windows(recording.scores, recording.lengths, recording.frames, skip=-4.0, **options)
    check_contract(found, recording.lengths, recording.frames, options)
    errors, lost, invented = recording.errors(found)
    assert np.mean(errors <= 5) > 0.98
    assert errors.mean() < 2
    assert lost < 0.04
    assert invented <= 0.08 * (~recording.said).sum()
    assert np.nanmedian(found.confidences) > 0.9


@pytest.mark.parametrize("seed", range(2))
def test_windows_make_no_difference_where_peaks_are_clear(seed):
    recording = Recording(60, false=3, drift=0, seed=seed)
    logits = recording.logits(0, recording.frames, 0, 60)
    rows = recording.rows

    def score_window(first_frame, last_frame, first_word, last_word):
        return logits[rows[first_word] : rows[last_word], first_frame:last_frame]

    options = {"skip": 3.0, "max_frames": 60}
    (whole,) = decode_boundaries([logits], [recording.lengths], **options)
    found = align_in_windows(score_window, recording.lengths, recording.frames, window=500, guard=150, **options)
    assert len(found.windows) > 4
    assert found.said.tolist() == whole.said.tolist()
    assert found.times.tolist() == whole.times.tolist()
    (sure,) = boundary_confidences([logits], [recording.lengths], [whole], max_frames=60)
    np.testing.assert_allclose(found.confidences, word_confidences(sure, recording.lengths), atol=0.02)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 80), st.lists(st.integers(1, 4), max_size=6))
def test_one_window_is_the_decoder(seed, frames, words):
    words = np.array(words, np.int64)
    scores = np.random.default_rng(seed).normal(-2, 1, ((words + 1).sum(), frames))
    found = align_in_windows(lambda *place: scores, words, frames, skip=-1.5, margin=1000.0)
    (whole,) = decode_boundaries([scores], [words], skip=-1.5, max_frames=60)
    assert found.times.tolist() == whole.times.tolist()
    assert found.said.tolist() == whole.said.tolist()


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32), st.integers(1, 900), st.integers(0, 60), st.sampled_from([-6.0, -3.0, 0.0]))
def test_noise_comes_to_an_end_too(seed, frames, words, skip):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 6, words)

    def score_window(first_frame, last_frame, first_word, last_word):
        return random.normal(-4, 2, ((lengths[first_word:last_word] + 1).sum(), last_frame - first_frame))

    options = {"window": 100, "guard": 20, "widest": 4}
    found = align_in_windows(score_window, lengths, frames, skip=skip, **options)
    if words:
        check_contract(found, lengths, frames, options)


def test_nothing_of_the_transcript_is_said():
    recording = Recording(1, music=[(0, 1200)], unsaid=[(0, 80)])
    found = align_in_windows(recording.scores, recording.lengths, recording.frames, skip=-4.0, window=400, widest=4)
    assert found.said.mean() < 0.05
    assert found.windows[-1, 1] == recording.frames  # it listened to the end


def test_bad_input_is_named():
    def zeros(*place):
        return np.zeros((3, 5))

    with pytest.raises(UserError, match="skip=-inf: must be finite"):
        align_in_windows(zeros, [2], 5, skip=-np.inf)
    with pytest.raises(UserError, match="guard=10: must be at least 0 and less than window=10"):
        align_in_windows(zeros, [2], 5, skip=-1, window=10, guard=10)
    with pytest.raises(UserError, match="margin=0"):
        align_in_windows(zeros, [2], 5, skip=-1, margin=0)
    with pytest.raises(UserError, match=r"scores of frames 0 to 5, words 0 to 1: \(3, 5\), not \(4, 5\)"):
        align_in_windows(zeros, [3], 5, skip=-1)
    with pytest.raises(UserError, match="has 0 phones"):
        align_in_windows(zeros, [0], 5, skip=-1)
