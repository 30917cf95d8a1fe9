"""The three inputs of indirect attention as queries, keys and values in every order."""

import itertools

import pytest
import torch

from indattn.build import build_misalignment, build_model, build_task
from indattn.errors import UserError
from indattn.models.assigned import INPUTS

SMALL = ["model.layers=2", "model.heads=2", "model.width=16", "model.bias_hidden=8", "model.offset_scale=1.0"]
ORDERS = list(itertools.permutations(INPUTS))


@pytest.fixture
def build(compose):
    def built(model, task, roles=None, *overrides, size=8):
        config = compose(f"model={model}", f"task={task}")
        config.merge_with_dotlist([*SMALL, "noise=0.5", *overrides])
        if roles is not None:
            config.model.roles = list(roles)
        task = build_task(config)
        torch.manual_seed(0)
        network = build_model(config, task)
        batch = task.draw(size, torch.Generator().manual_seed(1), build_misalignment(config, task))
        return network, task, batch

    return built


@pytest.mark.parametrize("task", ["synthetic", "sorting", "sequence_retrieval"])
def test_the_paper_s_order_is_indirect_attention_to_the_bit(build, task):
    (own, made, batch), (indirect, _, _) = build("assigned", task), build("indirect", task)
    losses = []
    for network in (own, indirect):
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
        for _ in range(2):  # the second with centres that have moved
            optimiser.zero_grad()
            loss = made.loss(network(batch)[0], batch)
            loss.backward()
            optimiser.step()
        losses.append(loss)
    assert torch.equal(*losses)
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), indirect.parameters(), strict=True))


@pytest.mark.parametrize("roles", ORDERS, ids="-".join)
@pytest.mark.parametrize("task", ["synthetic", "sorting", "sequence_retrieval"])
def test_every_order_gives_its_inputs_their_places_and_trains(build, task, roles):
    network, made, batch = build("assigned", task, roles)
    content, context = network.content_encoder(batch), network.context_encoder(batch)
    inputs = {"queries": network.queries(content), "context": context, "content": content}
    for given, name in zip(network.roles(batch), roles, strict=True):
        torch.testing.assert_close(given, inputs[name])
    logits, _ = network(batch)
    loss = made.loss(logits, batch)
    loss.backward()
    assert logits.shape == (*batch["targets"].shape, made.classes)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_where_the_context_asks_its_own_positions_are_read(build):
    network, _, batch = build("assigned", "synthetic", ("context", "queries", "content"))
    logits, output = network(batch)
    place = batch["context"][0, 1:].tolist().index(3) + 1  # of symbol 3
    torch.testing.assert_close(logits[0, 3], network.head(output.states[0, place]))


def test_all_orders_have_as_many_parameters(build):
    counts = {sum(p.numel() for p in build("assigned", "synthetic", roles)[0].parameters()) for roles in ORDERS}
    assert counts == {sum(p.numel() for p in build("indirect", "synthetic")[0].parameters())}


@pytest.mark.parametrize("roles", [["queries", "context"], ["queries", "context", "context"], ["query", *INPUTS[1:]]])
def test_what_is_no_order_is_named(build, roles):
    with pytest.raises(UserError, match=r"^model\.roles=\[.*\]: must be queries, context, content in some order"):
        build("assigned", "synthetic", roles)


def test_fewer_queries_only_where_they_ask(build):
    network, _, batch = build("assigned", "synthetic", None, "model.queries=20")
    assert network(batch)[0].shape[1] == 16
    with pytest.raises(UserError, match=r"^model\.queries=20: with model\.roles\[0\]=content"):
        build("assigned", "synthetic", ("content", "context", "queries"), "model.queries=20")


def test_not_for_pairs(compose):
    config = compose("model=assigned", "task=cross_modal_retrieval", "task.encoder=scratch")
    with pytest.raises(UserError, match=r"^model=assigned: not for task=cross_modal_retrieval$"):
        build_model(config, build_task(config))
