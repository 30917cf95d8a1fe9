"""The model with expected centres, trained."""

import torch

from indattn.build import build_misalignment, build_model, build_task

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
