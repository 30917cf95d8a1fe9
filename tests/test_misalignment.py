import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from indattn.misalignment import Additive, Corrupt, Layout, Shift, Shuffle
from indattn.tasks import Synthetic

KINDS = {
    "shift": Shift,
    "shuffle": Shuffle,
    "corrupt": Corrupt,
    "additive": lambda noise: Additive(noise, width=5),
}
TASK = Synthetic(n=8, values=1000)  # values rarely repeat, so that positions can be told apart
LAYOUT = TASK.layout


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def aligned(count=64, task=TASK):
    return task.sample(count, generator(7))


def distinct(count=64):
    content = torch.arange(TASK.content_length).expand(count, -1).clone()
    return {**aligned(count), "content": content}


@pytest.mark.parametrize("kind", KINDS)
def test_no_noise_is_the_identity(kind):
    before = aligned()
    after = KINDS[kind](0.0).apply(before, LAYOUT, generator())
    for key in before:
        assert torch.equal(after[key], before[key])
    for key in after.keys() - before.keys():  # the shift, the additive noise
        assert (after[key] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_input_is_left_alone(kind, noise):
    batch = aligned()
    copy, keys = {key: value.clone() for key, value in batch.items()}, set(batch)
    after = KINDS[kind](noise).apply(batch, LAYOUT, generator())
    assert set(batch) == keys
    assert all(torch.equal(batch[key], copy[key]) for key in keys)
    assert torch.equal(after["targets"], copy["targets"])


@pytest.mark.parametrize("kind", KINDS)
def test_noise_does_something_and_its_generator_decides_what(kind):
    batch = aligned()
    one, same, other = (KINDS[kind](1.0).apply(batch, LAYOUT, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
    assert any(key not in batch or not torch.equal(one[key], batch[key]) for key in one)


@given(noise=st.floats(0, 1), seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_shift_rolls_within_its_room(noise, seed):
    before = aligned(200)
    after = Shift(noise).apply(before, LAYOUT, generator(seed))
    most = round(noise * LAYOUT.room)
    assert set(after["shift"].tolist()) <= set(range(most + 1))
    for row, old, shift in zip(after["content"], before["content"], after["shift"].tolist(), strict=True):
        assert torch.equal(row, old.roll(shift))
    assert torch.equal(after["context"], before["context"])


def test_every_shift_is_as_likely():
    shift = Shift(0.5).apply(aligned(5000), LAYOUT, generator())["shift"]
    counts = shift.bincount(minlength=5)
    assert len(counts) == 5
    assert counts.min() > 850
    assert counts.max() < 1150


def test_shift_of_the_documented_example():
    content = torch.tensor([8, 5, 2, 5, 0, 6, 3, 7, 1]).expand(50, -1)
    task = Synthetic(n=4, values=8)
    after = Shift(1.0).apply({"content": content}, task.layout, generator())
    chosen = after["content"][after["shift"] == 2]
    assert len(chosen)
    assert (chosen == torch.tensor([7, 1, 8, 5, 2, 5, 0, 6, 3])).all()


@given(noise=st.floats(0, 1), seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_shuffle_permutes_some_values(noise, seed):
    before = distinct(50)
    after = Shuffle(noise).apply(before, LAYOUT, generator(seed))
    first, last = LAYOUT.first_value, LAYOUT.first_value + LAYOUT.num_values
    old, new = before["content"], after["content"]
    assert torch.equal(new[:, first:last].sort(1).values, old[:, first:last].sort(1).values)
    assert torch.equal(new[:, :first], old[:, :first])
    assert torch.equal(new[:, last:], old[:, last:])
    assert ((new != old).sum(1) <= round(noise * LAYOUT.num_values)).all()
    assert torch.equal(after["context"], before["context"])


def test_shuffle_moves_any_position_and_another_set_in_each_example():
    before = distinct(2000)
    moved = (Shuffle(0.5).apply(before, LAYOUT, generator())["content"] != before["content"])[:, 1:9].double()
    # 4 of 8 are chosen and the permutation leaves one of them where it was.
    torch.testing.assert_close(moved.mean(0), torch.full((8,), 3 / 8).double(), atol=0.05, rtol=0)
    assert len(moved.unique(dim=0)) > 50


@pytest.mark.parametrize("noise", [0.1, 0.5, 1.0])
def test_corrupt_rate(noise):
    symbols = 10
    layout = Layout(context_symbols=symbols, first_value=0, num_values=10, room=0)
    context = torch.randint(symbols + 1, (2000, 20), generator=generator(3))  # symbol 10 is a mark
    after = Corrupt(noise).apply({"context": context}, layout, generator())["context"]
    mark = context == symbols
    assert torch.equal(after[mark], context[mark])
    assert after[~mark].max() < symbols
    assert (after != context)[~mark].double().mean().item() == pytest.approx(noise * (1 - 1 / symbols), abs=0.01)
    drawn = after[(after != context) & ~mark].bincount(minlength=symbols).double()
    torch.testing.assert_close(drawn / drawn.sum(), torch.full((symbols,), 0.1).double(), atol=0.02, rtol=0)


def test_corrupt_leaves_the_mark_of_a_task():
    before = aligned()
    after = Corrupt(1.0).apply(before, LAYOUT, generator())
    assert (after["context"][:, 0] == TASK.n).all()
    assert (after["context"][:, 1:] < TASK.n).all()
    assert torch.equal(after["content"], before["content"])


@pytest.mark.parametrize("noise", [0.25, 0.5, 1.0])
def test_additive_sigma(noise):
    batch = aligned(500)
    after = Additive(noise, width=7).apply(batch, LAYOUT, generator())
    added = after["content_noise"]
    assert added.shape == (500, TASK.content_length, 7)
    assert added.std().item() == pytest.approx(2 * noise, rel=0.02)
    assert added.mean().item() == pytest.approx(0, abs=0.02)
    assert torch.equal(after["content"], batch["content"])
    assert torch.equal(after["context"], batch["context"])
