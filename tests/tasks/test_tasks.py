import itertools
import math
from collections import Counter, defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from indattn.build import build_misalignment, build_task
from indattn.errors import UserError
from indattn.misalignment import Additive, Corrupt, Shift, Shuffle
from indattn.tasks import SequenceRetrieval, Sorting, Synthetic, batch_generator
from indattn.tasks.base import TrainingData

TASKS = {"synthetic": Synthetic, "sorting": Sorting, "sequence_retrieval": SequenceRetrieval}
#: A kind of each task that leaves the batch as it was at noise 0.
PLAIN = {"synthetic": Shift(0.0), "sorting": Corrupt(0.0), "sequence_retrieval": Corrupt(0.0)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(batch):
    fields = (batch["context"].tolist(), batch["content"].tolist())
    return [(tuple(context), tuple(content)) for context, content in zip(*fields, strict=True)]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# Generators and splits


def test_streams_differ_and_repeat():
    splits = ("train", "validation", "test", "sample", "orders", "bound")
    keys = list(itertools.product(splits, range(5), range(5)))
    first = {key: tuple(torch.rand(4, generator=batch_generator(*key)).tolist()) for key in keys}
    assert len(set(first.values())) == len(keys)
    assert len({value[0] for value in first.values()}) == len(keys)
    assert all(tuple(torch.rand(4, generator=batch_generator(*key)).tolist()) == first[key] for key in keys[::7])


@pytest.mark.parametrize("name", TASKS)
def test_shapes_agree_with_what_the_task_declares(name):
    task = TASKS[name]()
    batch = task.sample(300, generator())
    assert batch["context"].shape == (300, task.context_length)
    assert batch["content"].shape == (300, task.content_length)
    assert task.context_length <= task.content_length
    for key, size in zip(("context", "content"), task.vocabularies, strict=True):
        assert batch[key].dtype == torch.long
        assert set(batch[key].unique().tolist()) == set(range(size))
    assert batch["targets"].dtype == torch.long
    assert set(batch["targets"].unique().tolist()) == set(range(task.classes))


@pytest.mark.parametrize("name", TASKS)
def test_splits_are_the_tasks_not_the_runs(compose, name):
    overrides = (f"task={name}", "noise=0.5", "task.test_size=40", "task.validation_size=30")
    splits = []
    for seed in (0, 1):
        config = compose(*overrides, f"seed={seed}")
        task = build_task(config)
        torch.manual_seed(seed)
        splits.append({split: task.split(split, build_misalignment(config, task)) for split in ("validation", "test")})
    for split, size in (("validation", 30), ("test", 40)):
        assert len(splits[0][split]["targets"]) == size
        assert same(splits[0][split], splits[1][split])
    test, validation = splits[0]["test"], splits[0]["validation"]
    assert not set(rows(test)) & set(rows(validation))
    assert not same(test, task.split("test", build_misalignment(config, task), seed=1))


@pytest.mark.parametrize("name", TASKS)
def test_no_test_example_was_trained_on(name):
    task = TASKS[name](train_size=1000)
    test = set(rows(task.split("test", PLAIN[name])))
    validation = set(rows(task.split("validation", PLAIN[name])))
    samples = []
    for seed in range(3):
        samples.append(set(rows(TrainingData(task, PLAIN[name], 50, seed).fixed)))
        assert len(samples[-1]) == 1000
        assert not samples[-1] & (test | validation)
    assert not samples[0] & samples[1]


# Training data


def test_fixed_sample_is_covered_once_an_epoch():
    task = Synthetic(n=6, train_size=60)
    data = TrainingData(task, Shift(0.5), 20, seed=3)
    sample = Counter(rows(data.fixed))
    epochs = [[data.batch(step) for step in range(3 * e, 3 * e + 3)] for e in range(3)]
    for epoch in epochs:
        assert sum((Counter(rows(batch)) for batch in epoch), Counter()) == sample
    assert not same(epochs[0][0], epochs[1][0])
    assert "shift" in epochs[0][0]


def test_fixed_sample_keeps_pairs_together():
    task = Synthetic(n=6, train_size=50)
    data = TrainingData(task, Shift(0.0), 20, seed=0)
    known = dict(zip(rows(data.fixed), data.fixed["targets"].tolist(), strict=True))
    for step in range(4):  # two batches of 20 an epoch: the last part batch of 10 is left out
        batch = data.batch(step)
        assert len(batch["targets"]) == 20
        assert [known[row] for row in rows(batch)] == batch["targets"].tolist()


@pytest.mark.parametrize("train_size", [None, 60])
def test_a_batch_depends_on_seed_and_step_alone(train_size):
    task = Synthetic(n=6, train_size=train_size)
    in_order = TrainingData(task, Shift(0.5), 20, seed=3)
    batches = [in_order.batch(step) for step in range(9)]
    torch.manual_seed(99)
    jumping = TrainingData(task, Shift(0.5), 20, seed=3)
    for step in (7, 2, 8, 0, 7):
        assert same(jumping.batch(step), batches[step])
    assert not same(TrainingData(task, Shift(0.5), 20, seed=4).batch(0), batches[0])


def test_fresh_batches_differ():
    data = TrainingData(Synthetic(n=6), Shift(0.5), 20, seed=0)
    seen = [row for step in range(10) for row in rows(data.batch(step))]
    assert len(set(seen)) == len(seen)


def test_sample_smaller_than_a_batch():
    with pytest.raises(UserError, match="train_size"):
        TrainingData(Synthetic(train_size=10), Shift(0.0), 20, seed=0)


# Synthetic


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_synthetic_targets_by_brute_force(noise):
    task = Synthetic(n=7, values=5)
    batch = task.draw(200, generator(), Shift(noise))
    mark, start = task.n, task.values
    for context, content, targets, shift in zip(
        *(batch[key].tolist() for key in ("context", "content", "targets", "shift")), strict=True
    ):
        assert context[0] == mark
        assert sorted(context[1:]) == list(range(task.n))
        assert content.count(start) == 1
        assert content.index(start) == shift
        for symbol in range(task.n):
            assert targets[symbol] == content[context.index(symbol) + shift]


def test_synthetic_documented_example():
    context, content, targets = [4, 2, 0, 3, 1], [7, 1, 8, 5, 2, 5, 0, 6, 3], [2, 0, 5, 5]
    start = content.index(8)
    assert [content[context.index(symbol) + start] for symbol in range(4)] == targets
    task = Synthetic(n=4, values=8)
    assert (task.context_length, task.content_length) == (len(context), len(content))
    assert task.vocabularies == (5, 9)


def test_synthetic_cross_readout_finds_the_symbol():
    task = Synthetic(n=7, values=5)
    batch = task.draw(50, generator(), Shift(1.0))
    positions = torch.eye(task.context_length).expand(50, -1, -1)
    read = task.readout(positions, batch, "context").argmax(-1)
    assert read.shape == (50, 7)
    assert torch.equal(batch["context"].gather(1, read), torch.arange(7).expand(50, -1))


def test_synthetic_readout_of_content_queries():
    task = Synthetic(n=7)
    batch = task.sample(3, generator())
    states = torch.randn(3, task.content_length, 4)
    assert torch.equal(task.readout(states, batch, "content"), states[:, :7])


# Sorting


def test_sorting_documented_example():
    order, content = torch.tensor([[3, 0, 4, 1, 2]]), torch.tensor([[1, 3, 1, 2, 0]])
    stable, lowest = (Sorting(letters=5, length=5, ties=ties) for ties in ("stable", "lowest"))
    assert stable.sorted_index(order, content).tolist() == [[2, 0, 3, 4, 1]]
    assert lowest.sorted_index(order, content).tolist() == [[2, 0, 2, 4, 1]]


@given(letters=st.integers(2, 6), extra=st.integers(0, 4), seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_sorting_targets_by_brute_force(letters, extra, seed):
    for ties in ("stable", "lowest"):
        task = Sorting(letters=letters, length=letters + extra, ties=ties)
        batch = task.sample(20, generator(seed))
        for order, content, targets in zip(
            *(batch[key].tolist() for key in ("context", "content", "targets")), strict=True
        ):
            ranks = [order.index(letter) for letter in content]
            sorted_ranks = sorted(ranks)
            for i, rank in enumerate(ranks):
                earlier = ranks[:i].count(rank) if ties == "stable" else 0
                assert targets[i] == sorted_ranks.index(rank) + earlier


def test_sorting_pool_is_the_tasks():
    torch.manual_seed(1)
    pool = Sorting().pool
    torch.manual_seed(2)
    task = Sorting(train_size=1000)
    assert torch.equal(task.pool, pool)
    assert pool.shape == (5, 10)
    assert torch.equal(pool.sort(1).values, torch.arange(10).expand(5, -1))
    orders = {tuple(order) for order in pool.tolist()}
    assert len(orders) == 5
    contexts = [task.split(split, Corrupt(0.0))["context"] for split in ("validation", "test")]
    contexts += [TrainingData(task, Corrupt(0.0), 50, seed).fixed["context"] for seed in (0, 1)]
    contexts += [TrainingData(Sorting(), Corrupt(0.0), 200, seed).batch(3)["context"] for seed in (0, 1)]
    for context in contexts:
        assert {tuple(order) for order in context.tolist()} == orders


# Sequence retrieval


@pytest.mark.parametrize("placement", ["overwrite", "insert"])
def test_retrieval_query_stands_at_the_target(placement):
    task = SequenceRetrieval(vocabulary=6, query_length=3, reference_length=8, placement=placement)
    assert task.content_length == (8 if placement == "overwrite" else 11)
    assert task.classes == (6 if placement == "overwrite" else 9)
    batch = task.sample(500, generator())
    assert batch["content"].shape == (500, task.content_length)
    for query, content, (start,) in zip(
        *(batch[key].tolist() for key in ("context", "content", "targets")), strict=True
    ):
        assert content[start : start + 3] == query
    assert batch["targets"].flatten().bincount(minlength=task.classes).min() > 500 / task.classes / 2


def test_retrieval_documented_example():
    task = SequenceRetrieval()
    context, content, target = [4, 0, 4], [9, 2, 4, 0, 4, 7, 7, 1, 0, 3], 2
    assert content[target : target + len(context)] == context
    assert (task.query_length, task.content_length, task.vocabulary) == (len(context), len(content), 10)


def test_retrieval_readouts():
    states = torch.randn(3, 10, 4)
    torch.testing.assert_close(SequenceRetrieval().readout(states, {}, "content"), states.mean(1, keepdim=True))
    assert torch.equal(SequenceRetrieval(readout_from="first").readout(states, {}, "content"), states[:, :1])


@pytest.mark.parametrize(
    ("task", "arguments"),
    [
        (Synthetic, {"n": 0}),
        (Synthetic, {"values": 1}),
        (Sorting, {"ties": "random"}),
        (Sorting, {"letters": 11}),
        (Sorting, {"orders": 0}),
        (SequenceRetrieval, {"placement": "append"}),
        (SequenceRetrieval, {"readout_from": "last"}),
        (SequenceRetrieval, {"query_length": 11}),
        (SequenceRetrieval, {"query_length": 0}),
    ],
)
def test_wrong_arguments_are_named(task, arguments):
    with pytest.raises(UserError, match=f"task.{next(iter(arguments))}"):
        task(**arguments)


# Loss and accuracy


def test_loss_and_correct():
    task = Synthetic(n=3, values=4)
    batch = {"targets": torch.tensor([[0, 1, 2], [3, 0, 1]])}
    logits = torch.randn(2, 3, 4, generator=generator())
    expected = -sum(
        math.log(math.exp(logits[b, i, batch["targets"][b, i]]) / sum(math.exp(x) for x in logits[b, i]))
        for b in range(2)
        for i in range(3)
    )
    assert task.loss(logits, batch).item() == pytest.approx(expected / 6, rel=1e-5)
    best = torch.nn.functional.one_hot(batch["targets"], 4).float()
    assert task.correct(best, batch).all()
    assert not task.correct(-best, batch).any()


# Chance and ceilings

LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


@pytest.mark.parametrize("name", TASKS)
def test_ceilings_fall_from_one_to_no_less_than_chance(name):
    task = TASKS[name]()
    for kind in task.kinds:
        known = [c for c in (task.ceiling(kind, noise) for noise in LEVELS) if c is not None]
        if name == "sequence_retrieval":  # a run may recur by chance
            assert 0.98 < known[0] < 1
        else:
            assert known[0] == pytest.approx(1)
        assert all(later <= earlier + 1e-3 for earlier, later in itertools.pairwise(known))
        assert all(task.chance() <= ceiling + 1e-3 for ceiling in known)
    assert task.ceiling("additive", 0.5) is None
    assert 0 < task.chance() < 1


def test_shifts_lose_nothing():
    assert [Synthetic().ceiling("shift", noise) for noise in LEVELS] == [1.0] * 5


def test_corruption_leaves_chance():
    task = SequenceRetrieval()
    assert task.ceiling("corrupt", 1.0) == pytest.approx(1 / task.classes)
    assert task.chance() == pytest.approx(1 / task.classes)
    assert Sorting().ceiling("corrupt", 1.0) == pytest.approx(Sorting().chance())


def best_accuracy(joint):
    # The best guess at each observation, from the joint weights {observation: {answer: weight}}.
    total = sum(sum(answers.values()) for answers in joint.values())
    return sum(max(answers.values()) for answers in joint.values()) / total


@pytest.mark.parametrize("moved", [1, 2, 3])
def test_shuffle_ceiling_by_enumeration(moved):
    n, values = 3, 3
    joint = defaultdict(Counter)
    for content in itertools.product(range(values), repeat=n):
        for chosen in itertools.combinations(range(n), moved):
            for order in itertools.permutations(chosen):
                seen = list(content)
                for target, source in zip(chosen, order, strict=True):
                    seen[target] = content[source]
                joint[tuple(seen)][content[0]] += 1
    ceiling = Synthetic(n=n, values=values).ceiling("shuffle", moved / n)
    assert ceiling == pytest.approx(best_accuracy(joint), abs=0.01)


@pytest.mark.parametrize("noise", [0.25, 0.5, 1.0])
def test_shuffle_ceiling_is_above_a_simulated_guess(noise):
    task = Synthetic()
    batch = task.draw(2000, generator(), Shuffle(noise))
    own_position = batch["context"][:, 1:].argsort(1) + 1
    guess = batch["content"].gather(1, own_position)
    greedy = (guess == batch["targets"]).double().mean().item()
    ceiling = task.ceiling("shuffle", noise)
    assert ceiling >= greedy - 0.01
    if noise <= 0.5:  # most values are in place: there is no better guess
        assert ceiling == pytest.approx(greedy, abs=0.015)


@pytest.mark.parametrize("ties", ["stable", "lowest"])
@pytest.mark.parametrize("noise", [0.0, 0.4, 0.7, 1.0])
def test_sorting_ceiling_by_enumeration(noise, ties):
    letters = 3
    task = Sorting(letters=letters, length=letters, orders=5, ties=ties)
    assert len(task.pool.unique(dim=0)) > 1
    hit, kept = noise / letters, 1 - noise + noise / letters
    joint = defaultdict(Counter)
    contents = list(itertools.product(range(letters), repeat=letters))
    for order in task.pool.tolist():
        targets = task.sorted_index(torch.tensor([order] * len(contents)), torch.tensor(contents)).tolist()
        for seen in itertools.product(range(letters), repeat=letters):
            weight = math.prod(kept if s == o else hit for s, o in zip(seen, order, strict=True))
            for content, target in zip(contents, targets, strict=True):
                for i in range(letters):
                    joint[seen, content, i][target[i]] += weight
    assert task.ceiling("corrupt", noise) == pytest.approx(best_accuracy(joint), abs=0.015)


@pytest.mark.parametrize("placement", ["overwrite", "insert"])
@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_retrieval_ceiling_by_enumeration(noise, placement):
    vocabulary, length = 2, 2
    task = SequenceRetrieval(vocabulary=vocabulary, query_length=length, reference_length=3, placement=placement)
    hit, kept = noise / vocabulary, 1 - noise + noise / vocabulary
    joint = defaultdict(Counter)
    words = list(itertools.product(range(vocabulary), repeat=length))
    for rest in itertools.product(range(vocabulary), repeat=task.content_length - length):
        for query, seen, start in itertools.product(words, words, range(task.classes)):
            content = (*rest[:start], *query, *rest[start:])
            weight = math.prod(kept if s == q else hit for s, q in zip(seen, query, strict=True))
            joint[seen, content][start] += weight
    assert task.ceiling("corrupt", noise) == pytest.approx(best_accuracy(joint), abs=0.015)


def test_synthetic_chance_by_simulation():
    task = Synthetic()
    targets = task.sample(4000, generator())["targets"]
    commonest = torch.stack([(targets == value).sum(1) for value in range(task.values)]).amax(0)
    assert task.chance() == pytest.approx(commonest.double().mean().item() / task.n, abs=0.005)


def test_sorting_chance_by_simulation():
    task = Sorting()
    batch = task.sample(500, generator())
    index = torch.stack([task.sorted_index(order.expand(500, -1), batch["content"]) for order in task.pool])
    guess = index.mode(0).values
    assert task.chance() == pytest.approx((guess == batch["targets"]).double().mean().item(), abs=0.03)


def test_additive_noise_reaches_the_content_features():
    task = Synthetic(n=4)
    context_encoder, content_encoder = task.encoders(6)
    batch = task.draw(3, generator(), Additive(0.5, width=6))
    clean = {key: value for key, value in batch.items() if key != "content_noise"}
    torch.testing.assert_close(content_encoder(batch), content_encoder(clean) + batch["content_noise"])
    assert torch.equal(context_encoder(batch), context_encoder(clean))
    features = content_encoder(clean)
    torch.testing.assert_close(features.mean(-1), torch.zeros(3, 9), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.var(-1, unbiased=False), torch.ones(3, 9), atol=1e-3, rtol=0)
    assert context_encoder(batch).shape == (3, 9, 6)
    assert context_encoder(batch, padded=False).shape == (3, 5, 6)
