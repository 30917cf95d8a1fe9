"""Lookup and the ways in which its content slips."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from indattn.errors import UserError
from indattn.misalignment import Shift
from indattn.models.encoders import SinusoidalEncoder
from indattn.slips import Jitter, Missing, Rate, Stretch, TwoShifts
from indattn.tasks.lookup import Lookup

KINDS = (Shift, TwoShifts, Stretch, Rate, Jitter, Missing)
#: Kinds that lose nothing: every asked value stands where it is said to.
EXACT = (Shift, TwoShifts, Stretch, Rate, Jitter)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(kind, noise, task=None, count=300, seed=0):
    task = task or Lookup()
    return task, task.draw(count, generator(seed), kind(noise=noise))


sizes = st.tuples(st.integers(2, 20), st.integers(1, 20), st.integers(0, 20))


@given(sizes, st.integers(0, 100))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_every_context_has_the_symbols_asked_for_and_targets_are_their_values(size, seed):
    n, asked, room = size
    asked = min(asked, n)
    task = Lookup(n=n, asked=asked, symbols=n + 5, room=room)
    batch = task.sample(20, generator(seed))
    assert batch["content"].shape == (20, task.content_length)
    for context, content, targets in zip(*(batch[k].tolist() for k in ("context", "content", "targets")), strict=True):
        assert context[0] == task.symbols
        assert content[0] == task.values
        assert len(set(context)) == len(context) == n + 1
        assert targets == [content[context.index(symbol)] for symbol in range(asked)]


def test_every_symbol_of_the_alphabet_appears():
    batch = Lookup().sample(500, generator())
    assert set(batch["context"].unique().tolist()) == set(range(257))


@pytest.mark.parametrize("kind", KINDS)
@given(noise=st.floats(0.01, 1), n=st.integers(2, 20), seed=st.integers(0, 100))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_values_stand_at_their_places_behind_the_start_mark_in_an_order(kind, noise, n, seed):
    task = Lookup(n=n, asked=1, room=n + 1)
    before = task.sample(30, generator(seed))
    after = kind(noise=noise).apply(before, task.layout, generator(seed + 1))
    assert after["content"].shape == before["content"].shape
    places = after["places"] + after["shift"].unsqueeze(1) if "shift" in after else after["places"]
    assert places.min() > 0
    assert places.max() < task.content_length
    start = (after["content"] == task.values).nonzero()
    assert len(start) == 30  # one a row
    assert (places > start[:, 1:]).all()
    assert all(len(row.unique()) == n for row in places)
    if kind is not Jitter:
        assert (places.diff() > 0).all()
    if kind is not Missing:
        assert torch.equal(after["content"].gather(1, places), before["content"][:, 1 : n + 1])
    assert torch.equal(after["targets"], before["targets"])
    assert torch.equal(after["context"], before["context"])
    assert (after["content"] == task.values + 1).sum(1).eq(kind in (TwoShifts, Stretch)).all()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_nothing_slips_at_level_zero(kind):
    task = Lookup()
    before = task.sample(20, generator())
    after = kind(noise=0.0).apply(before, task.layout, generator())
    assert torch.equal(after["content"], before["content"])


def test_two_shifts_are_independent_and_uniform():
    task, batch = drawn(TwoShifts, 1.0, count=6000)
    first = batch["places"][:, 0] - 1
    second = batch["places"][:, -1] - batch["places"][:, 0] - task.n
    for shift in (first, second):
        counts = shift.bincount(minlength=8)
        assert len(counts) == 8
        assert counts.min() > 600
        assert counts.max() < 900
    assert abs(torch.corrcoef(torch.stack([first, second]).double())[0, 1]) < 0.05
    marks = (batch["content"] == task.values + 1).nonzero()[:, 1]
    assert torch.equal(marks, batch["places"][:, 8] - 1)


def test_stretch_fills_the_room_and_the_mark_tells_the_factor():
    task, batch = drawn(Stretch, 1.0, count=4000)
    end = (batch["content"] == task.values + 1).nonzero()[:, 1]
    assert end.min() == task.n + 1
    assert end.max() == task.content_length - 1
    assert end.bincount()[task.n + 1 :].min() > 180  # uniform
    expected = end.double().unsqueeze(1) / (task.n + 1) * torch.arange(1, task.n + 1)
    assert (batch["places"] - expected).abs().max() <= 0.5
    for place in range(task.n + 1, task.content_length):  # the values' places are told by the mark's alone
        assert len(batch["places"][end == place].unique(dim=0)) == 1


def test_rate_is_the_same_in_every_example():
    _, batch = drawn(Rate, 1.0, count=4000)
    gaps = (batch["places"] - batch["places"][:, :1]).unique(dim=0)
    assert len(gaps) == 1
    assert gaps[0, -1] == 24 - 1
    assert (batch["places"][:, 0] - 1).unique().tolist() == list(range(9))  # all the room that is left


@pytest.mark.parametrize("noise", [0.5, 1.0])
def test_a_guess_that_knows_the_shift_reaches_the_ceiling(noise):
    task, batch = drawn(Jitter, noise, count=4000)
    start = (batch["content"] == task.values).nonzero()[:, 1:]
    guess = batch["content"].gather(1, start + 1 + task.keys_asked(batch))
    assert (guess == batch["targets"]).double().mean().item() == pytest.approx(task.ceiling("jitter", noise), abs=0.01)
    task, batch = drawn(Missing, noise, count=4000)
    guess = batch["content"].gather(1, batch["places"].gather(1, task.keys_asked(batch)))
    ceiling = task.ceiling("missing", noise)
    assert (guess == batch["targets"]).double().mean().item() == pytest.approx(ceiling, abs=0.01)
    assert task.answer_positions(batch) is None


@pytest.mark.parametrize("kind", EXACT)
def test_answers_stand_where_they_are_said_to(kind):
    task, batch = drawn(kind, 1.0)
    positions = task.answer_positions(batch)
    assert positions is not None
    assert torch.equal(batch["content"].gather(1, positions), batch["targets"])
    if kind not in (Jitter,):
        assert task.ceiling(kind.kind, 1.0) == 1.0


@pytest.mark.parametrize(
    ("kind", "sizes", "line"),
    [
        (TwoShifts, {"room": 0}, "misalignment=two_shifts: task.room=0 is too small; it needs 1"),
        (Rate, {"room": 3}, "misalignment=rate: task.room=3 is too small; it needs 8"),
    ],
)
def test_too_little_room_is_refused(kind, sizes, line):
    with pytest.raises(UserError, match=line):
        drawn(kind, 1.0, Lookup(**sizes))


@pytest.mark.parametrize("sizes", [{"asked": 17}, {"n": 300}, {"values": 1}, {"room": -1}])
def test_sizes_that_cannot_be_are_refused(sizes):
    with pytest.raises(UserError, match=r"task\."):
        Lookup(**sizes)


def test_sinusoids_do_not_know_the_length():
    torch.manual_seed(0)
    short = SinusoidalEncoder("content", 5, 8, 6)
    long = SinusoidalEncoder("content", 5, 30, 6)
    long.load_state_dict(short.state_dict())
    tokens = torch.randint(5, (2, 8), generator=generator())
    torch.testing.assert_close(long({"content": tokens}, padded=False), short({"content": tokens}))
    torch.testing.assert_close(long({"content": tokens})[:, :8], short({"content": tokens}))
    assert long({"content": tokens}).shape == (2, 30, 6)
    torch.testing.assert_close(short.positions.square().mean(), torch.tensor(1.0))
