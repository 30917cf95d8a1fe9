"""Long recordings, simulated: peaks near the true times, noise, false peaks, music, words nobody says."""

import numpy as np

from indattn.alignment.decode import word_times


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
