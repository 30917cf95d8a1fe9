"""Both decoders against every path there is."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indattn.alignment import chains
from indattn.alignment.chains import running_argmax, running_logsum
from indattn.alignment.confidence import boundary_confidences, posteriors, word_confidences
from indattn.alignment.decode import (
    BoundaryAlignment,
    decode_boundaries,
    decode_frames,
    refined,
    word_gains,
    word_times,
)
from indattn.errors import UserError

words_lists = st.lists(st.integers(1, 3), min_size=1, max_size=3).filter(lambda words: sum(words) + len(words) <= 6)
skips = st.sampled_from([-math.inf, -2.0, -0.5, 0.0, 1.0])
limits = st.sampled_from([(1, None), (1, 1), (1, 2), (1, 3), (2, None), (2, 3), (3, 4)])


@st.composite
def chain_cases(draw, fewest=1, most=7):
    """Scores in quarters, so that sums are exact and ties are many; some are minus infinity."""
    words, frames = draw(words_lists), draw(st.integers(fewest, most))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = random.integers(-8, 9, (sum(words) + len(words), frames)) / 4
    scores[random.random(scores.shape) < draw(st.sampled_from([0.0, 0.3]))] = -np.inf
    return scores.astype(np.float32), words


def paths(words, frames, least=1, most=None, begin=0):
    """Times of all boundaries of all words, every way there is."""
    if not words:
        yield ()
        return
    for inner in itertools.combinations(range(begin, frames), words[0] + 1):
        steps = [after - before for before, after in itertools.pairwise(inner)]
        if min(steps) >= least and (most is None or max(steps) <= most):
            for rest in paths(words[1:], frames, least, most, inner[-1]):
                yield inner + rest


def patterns(words):
    yield from itertools.product([False, True], repeat=len(words))


def boundary_rows(words, said):
    return [row for row, word in enumerate(np.repeat(range(len(words)), np.array(words) + 1)) if said[word]]


def path_score(scores, words, said, times, skip):
    rows = boundary_rows(words, said)
    cost = sum(skip * (words[word] + 1) for word in range(len(words)) if not said[word])
    return sum(float(scores[row, time]) for row, time in zip(rows, times, strict=True)) + cost


def best_score(scores, words, skip, least, most):
    best = -math.inf
    for said in patterns(words):
        if all(said) or skip > -math.inf:
            kept = [word for word, is_said in zip(words, said, strict=True) if is_said]
            for times in paths(kept, scores.shape[1], least, most):
                best = max(best, path_score(scores, words, said, times, skip))
    return best


@settings(deadline=None, max_examples=150)
@given(chain_cases(), skips, limits)
def test_the_boundaries_found_are_a_best_path(case, skip, limit):
    scores, words = case
    best = best_score(scores, words, skip, *limit)
    options = {"skip": skip, "min_frames": limit[0], "max_frames": limit[1]}
    if best == -math.inf:
        with pytest.raises(UserError, match=r"example 0: its \d words fit nowhere in"):
            decode_boundaries([scores], [words], **options)
        return
    (found,) = decode_boundaries([scores], [words], **options)
    assert found.score == best
    times = found.times[boundary_rows(words, found.said)]
    assert (np.delete(found.times, boundary_rows(words, found.said)) == -1).all()
    assert path_score(scores, words, found.said, times, skip) == best
    kept = [word for word, said in zip(words, found.said, strict=True) if said]
    assert tuple(times) in set(paths(kept, scores.shape[1], *limit))
    if skip > -math.inf:
        gains = word_gains(scores, found, words, skip)
        assert (gains >= 0).all()
        assert gains.sum() + skip * len(scores) == best


def frame_labels(words, frames, said, least, most):
    """Every way to label frames with tokens or none (-1): plain recursion over all labellings."""
    tokens = [
        (word, place, token)
        for token, (word, place) in enumerate((w, p) for w, count in enumerate(words) for p in range(count))
        if said[word]
    ]
    for labels in itertools.product([-1, *(token for *_, token in tokens)], repeat=frames):
        runs = [(label, len(list(group))) for label, group in itertools.groupby(labels)]
        spoken = [label for label, _ in runs if label >= 0]
        if spoken != [token for *_, token in tokens]:
            continue
        if any(label >= 0 and (length < least or length > (most or frames)) for label, length in runs):
            continue
        firsts = {token for _, place, token in tokens if place == 0}
        pause_inside = any(
            before == -1 and after not in firsts for (before, _), (after, _) in itertools.pairwise(runs)
        )  # a pause comes before a word's first token
        if not pause_inside:
            yield labels


@settings(deadline=None, max_examples=80)
@given(st.data(), skips, st.sampled_from([(1, None), (1, 2), (2, None)]))
def test_the_labels_of_frames_are_a_best_path(data, skip, limit):
    words = data.draw(st.lists(st.integers(1, 2), min_size=1, max_size=3).filter(lambda words: sum(words) <= 4))
    frames = data.draw(st.integers(1, 5))
    tokens = sum(words)
    cells = st.lists(st.integers(-8, 0).map(lambda x: x / 4), min_size=frames * (tokens + 1), max_size=99)
    scores = np.array(data.draw(cells)[: frames * (tokens + 1)], np.float32).reshape(frames, tokens + 1)
    best = -math.inf
    ways = {}
    for said in patterns(words):
        if not all(said) and skip == -math.inf:
            continue
        cost = sum(skip * count for count, is_said in zip(words, said, strict=True) if not is_said)
        for labels in frame_labels(words, frames, said, *limit):
            ways[said, labels] = sum(float(scores[t, label]) for t, label in enumerate(labels)) + cost
    best = max(ways.values(), default=-math.inf)
    options = {"skip": skip, "min_frames": limit[0], "max_frames": limit[1]}
    if best == -math.inf:
        with pytest.raises(UserError, match="fit nowhere"):
            decode_frames([scores], [words], **options)
        return
    (found,) = decode_frames([scores], [words], **options)
    assert found.score == pytest.approx(best, abs=1e-9)
    labels = np.full(frames, -1)
    for token in range(tokens):
        labels[max(found.starts[token], 0) : max(found.ends[token], 0)] = token
    assert ways[tuple(found.said.tolist()), tuple(labels.tolist())] == pytest.approx(best, abs=1e-9)


def test_frames_of_probability_zero_are_avoided():
    scores = np.full((6, 4), -np.inf)
    for frame, token in enumerate([3, 0, 0, 1, 3, 2]):
        scores[frame, token] = 0.0
    (found,) = decode_frames([scores], [[2, 1]])
    assert found.starts.tolist() == [1, 3, 5]
    assert found.ends.tolist() == [3, 4, 6]
    assert found.score == 0


@settings(deadline=None, max_examples=60)
@given(st.lists(chain_cases(0, 9), min_size=1, max_size=7), limits, st.sampled_from([8, 1 << 14]))
def test_a_batch_gives_what_its_examples_give_alone(cases, limit, rows):
    scores, words = [case[0] for case in cases], [case[1] for case in cases]
    options = {"min_frames": limit[0], "max_frames": limit[1]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chains, "ROWS", rows)
        together = decode_boundaries(scores, words, skip=-0.5, **options)
        alone = [decode_boundaries([one], [own], skip=-0.5, **options)[0] for one, own in cases]
        sure = boundary_confidences(scores, words, together, within=1, **options)
    for one, other, confidence, (array, own) in zip(together, alone, sure, cases, strict=True):
        assert one.times.tolist() == other.times.tolist()
        assert one.said.tolist() == other.said.tolist()
        assert one.score == other.score
        (expected,) = boundary_confidences([array], [own], [other], within=1, **options)
        np.testing.assert_allclose(confidence, expected, atol=1e-12)


def test_frames_in_a_batch_are_as_alone():
    random = np.random.default_rng(0)
    words = [random.integers(1, 5, random.integers(1, 6)) for _ in range(9)]
    scores = [random.normal(-2, 1, (random.integers(20, 40), own.sum() + 1)) for own in words]
    for one, array, own in zip(decode_frames(scores, words, skip=-3.0), scores, words, strict=True):
        (other,) = decode_frames([array], [own], skip=-3.0)
        assert one.starts.tolist() == other.starts.tolist()
        assert one.ends.tolist() == other.ends.tolist()
        assert one.score == other.score


@given(st.integers(0, 2**32), st.integers(0, 20))
def test_times_move_with_the_scores(seed, shift):
    random = np.random.default_rng(seed)
    words = random.integers(1, 4, 4)
    scores = random.normal(-2, 1, (words.sum() + 4, 30))
    moved = np.full((len(scores), 60), -np.inf)
    moved[:, shift : shift + 30] = scores
    one, other = decode_boundaries([scores, moved], [words, words], skip=-1.0)
    assert one.said.any()
    assert np.where(one.said.repeat(words + 1), one.times + shift, -1).tolist() == other.times.tolist()
    assert one.score == other.score
    sure, also = boundary_confidences([scores, moved], [words, words], [one, other])
    np.testing.assert_allclose(sure, also)


@settings(deadline=None, max_examples=150)
@given(chain_cases(), limits, st.data())
def test_posteriors_are_those_of_all_paths(case, limit, data):
    scores, words = case
    some = st.lists(st.booleans(), min_size=len(words), max_size=len(words))
    said = np.array(data.draw(st.one_of(st.just([True] * len(words)), some)))
    rows = boundary_rows(words, said)
    expected = np.zeros(scores.shape)
    total = 0.0
    for times in paths(np.array(words)[said].tolist(), scores.shape[1], *limit):
        weight = math.exp(path_score(scores, words, said, times, 0.0))
        expected[rows, list(times)] += weight
        total += weight
    options = {"min_frames": limit[0], "max_frames": limit[1]}
    if total == 0:
        with pytest.raises(UserError, match="example 0: no path says these"):
            posteriors([scores], [words], [said], **options)
        return
    (found,) = posteriors([scores], [words], [said], **options)
    np.testing.assert_allclose(found, expected / total, atol=1e-12)
    np.testing.assert_allclose(found[rows].sum(1), 1)

    times = np.full(len(scores), -1)
    times[rows] = data.draw(st.lists(st.integers(0, scores.shape[1] - 1), min_size=len(rows), max_size=len(rows)))
    within = data.draw(st.integers(0, 3))
    alignment = BoundaryAlignment(times, said, 0.0)
    (sure,) = boundary_confidences([scores], [words], [alignment], within=within, **options)
    for row in range(len(scores)):
        near = expected[row, max(times[row] - within, 0) : times[row] + within + 1].sum() / total
        assert np.isnan(sure[row]) if row not in rows else sure[row] == pytest.approx(near, abs=1e-12)
    means = word_confidences(sure, words)
    for word, part in enumerate(np.split(sure, np.cumsum(np.array(words) + 1)[:-1])):
        expected_mean = math.prod(part) ** (1 / len(part))
        assert means[word] == pytest.approx(expected_mean, abs=1e-9, nan_ok=True)


@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 45), st.integers(0, 2**32))
def test_running_maxima_and_sums(rows, frames, width, seed):
    scores = np.random.default_rng(seed).integers(-3, 3, (rows, frames)).astype(float)
    scores[scores == -3] = -np.inf
    for wide in (width, None):
        best, place = running_argmax(scores, wide)
        total = running_logsum(scores, wide)
        for t in range(frames):
            begin = 0 if wide is None else max(t - wide + 1, 0)
            part = scores[:, begin : t + 1]
            assert (best[:, t] == part.max(1)).all()
            assert (place[:, t] == begin + part.argmax(1)).all()
            np.testing.assert_allclose(np.exp(total[:, t]), np.exp(part).sum(1), rtol=1e-12)


def test_the_vertex_of_a_parabola_is_found():
    frames = np.arange(20)
    peaks = np.array([7.3, 11.5, 4.0])
    scores = -0.5 * (frames - peaks[:, None]) ** 2
    times = np.array([7, 11, 4])
    np.testing.assert_allclose(refined(scores, times), peaks)
    assert refined(scores, np.array([0, 19, -1]))[:2].tolist() == [0, 19]
    assert np.isnan(refined(scores, np.array([0, 19, -1]))[2])
    assert refined(scores, np.array([9, 9, 9])).tolist() == [9, 9, 9]  # no maxima
    assert refined(np.zeros((1, 5)), np.array([2])).tolist() == [2]
    assert word_times(times, [1, 0]).tolist() == [[7, 11], [4, 4]]


def test_a_long_example_needs_wide_pointers():
    scores = np.full((4, 40_000), -5.0, np.float32)
    at = np.array([100, 33_000, 35_000, 39_999])
    scores[np.arange(4), at] = 0
    assert decode_boundaries([scores], [[1, 1]])[0].times.tolist() == at.tolist()
    assert decode_boundaries([scores], [[1, 1]], max_frames=32_900)[0].times.tolist() == at.tolist()


def test_nothing_to_say_and_nothing_to_hear():
    empty, mute, heard = decode_boundaries(
        [np.zeros((0, 5)), np.zeros((3, 0)), np.zeros((2, 3))], [[], [2], [1]], skip=-1
    )
    assert (empty.score, len(empty.times), len(empty.said)) == (0, 0, 0)
    assert (mute.score, mute.times.tolist(), mute.said.tolist()) == (-3, [-1] * 3, [False])
    assert heard.said.all()
    assert decode_boundaries([], []) == []
    assert len(word_confidences(np.empty(0), [])) == 0


def test_bad_input_is_named():
    scores = np.zeros((3, 5))
    with pytest.raises(UserError, match=r"example 0: scores of shape \(3, 5\) for a chain of 4 boundaries"):
        decode_boundaries([scores], [[3]])
    with pytest.raises(UserError, match="example 0, word 1: has 0 phones"):
        decode_boundaries([scores], [[2, 0]])
    with pytest.raises(UserError, match="1 arrays of scores for 2 transcripts"):
        decode_boundaries([scores], [[2], [2]])
    with pytest.raises(UserError, match="1 arrays of scores for 2 transcripts"):
        decode_frames([scores], [[2], [2]])
    bad = scores.copy()
    bad[2, 4] = np.nan
    with pytest.raises(UserError, match="example 1, boundary 2, frame 4: score nan"):
        decode_boundaries([scores, bad], [[2], [2]])
    with pytest.raises(UserError, match="example 0, frame 2, token 4: score nan"):
        decode_frames([bad], [[2, 2]])
    with pytest.raises(UserError, match=r"example 0: scores of shape \(3, 5\) for 3 tokens and none"):
        decode_frames([scores], [[3]])
    with pytest.raises(UserError, match="min_frames=0"):
        decode_boundaries([scores], [[2]], min_frames=0)
    with pytest.raises(UserError, match="max_frames=1: must be at least min_frames=2"):
        decode_boundaries([scores], [[2]], min_frames=2, max_frames=1)
    with pytest.raises(UserError, match="skip=nan"):
        decode_boundaries([scores], [[2]], skip=math.nan)
    (alignment,) = decode_boundaries([scores], [[2]])
    with pytest.raises(UserError, match="within=-1"):
        boundary_confidences([scores], [[2]], [alignment], within=-1)
    with pytest.raises(UserError, match="said for 1 words"):
        posteriors([scores], [[2]], [np.ones(2, bool)])
