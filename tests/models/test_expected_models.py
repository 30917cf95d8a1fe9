"""The model with expected centres, trained."""

from types import SimpleNamespace

import pytest
import torch

from indattn.build import build_misalignment, build_model, build_task
from indattn.errors import UserError

SIZES = ("task.n=5", "task.values=5", "model.layers=2", "model.width=32", "model.heads=2")


def test_centres_follow_the_content_of_a_trained_model(compose):
    """Content that slips by a token takes along the centres of the head that reads it: by a token each time."""
    config = compose("model=indirect_expected", "task=synthetic", "noise=1", *SIZES)
    torch.manual_seed(0)
    task = build_task(config)
    model, misalignment = build_model(config, task), build_misalignment(config, task)
    data = task.training_data(misalignment, 64, 0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for step in range(300):
        batch = data.batch(step)
        optimiser.zero_grad()
        task.loss(model(batch)[0], batch).backward()
        optimiser.step()
    assert task.score(model.eval(), task.split("validation", misalignment), torch.device("cpu")).accuracy > 0.95

    read = []
    for layer in model.decoder.layers:
        layer.attention.register_forward_hook(lambda *given: read.append(given[2].centres[..., : task.n].mean((0, 2))))
    aligned = task.sample(100, torch.Generator().manual_seed(1))
    right = []
    with torch.no_grad():
        for shift in range(task.n + 1):
            content = aligned["content"].roll(shift, 1)
            batch = {**aligned, "content": content, "shift": torch.full((100,), shift)}
            _, output = model(batch, record=True)
            at = task.answer_positions(batch)[:, None, :, None].expand(-1, 2, -1, 1)
            right.append(torch.cat([w[:, :, : task.n].gather(-1, at).mean((0, 2, 3)) for w in output.weights]))
    centres = torch.cat(read).view(task.n + 1, -1)  # (shifts, L H)
    reader = torch.stack(right).mean(0).argmax()
    torch.testing.assert_close(centres.diff(dim=0)[:, reader], torch.ones(task.n), atol=0.4, rtol=0)


def test_padding_has_no_part_in_where_keys_are_expected(compose):
    """Of a model whose keys are all alike the centre is the middle of the context, however long the content is."""
    config = compose("model=indirect_expected", "task=lookup", "task.n=8", "task.room=20", "model.width=16")
    task = build_task(config)
    model = build_model(config, task).eval()
    with torch.no_grad():
        for layer in model.decoder.layers:
            layer.attention.q_proj.weight.zero_()
            layer.attention.q_proj.bias.zero_()
        _, output = model(task.sample(3, torch.Generator().manual_seed(0)), record=True)
    for centres in output.centres:
        torch.testing.assert_close(centres, torch.full_like(centres, task.n / 2))  # a mark and n symbols


@pytest.mark.parametrize("task", ["synthetic", "speech_text_alignment"])
def test_the_pointer_has_gradients_unless_it_is_detached(compose, task):
    closed = ("model=indirect_expected", "model.gate=closed", f"task={task}", "model.layers=1", "model.width=16")
    for detached in (False, True):
        config = compose(*closed, f"model.detach_pointer={str(detached).lower()}")
        assert config.model.detach_centres == (task == "speech_text_alignment")
        # What a model of alignment asks of its task; the task itself would make its corpus.
        side = SimpleNamespace(formulation="centres", bands=8, inventory=torch.zeros(3, 3, dtype=torch.uint8))
        layer = build_model(config, build_task(config) if task == "synthetic" else side).decoder.layers[0]
        layer.attention(*torch.randn(3, 2, 7, 16).unbind()).output.square().sum().backward()
        assert (layer.attention.q_proj.weight.grad is None) == detached


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["model.backend=table"], "model.backend=table: model=indirect_expected has auto, oracle, sdpa, folded"),
        (["model.bias=gaussian", "model.backend=folded", "model.centres_per_head=2"], "for one centre a head"),
    ],
)
def test_ways_to_read_that_expected_centres_have_not_are_refused(compose, overrides, line):
    config = compose("model=indirect_expected", "task=synthetic", *overrides)
    with pytest.raises(UserError, match=line):
        build_model(config, build_task(config))
