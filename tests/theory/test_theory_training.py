"""Measures of trained runs against plain loops and what they must be at their limits."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from indattn.build import build_misalignment, build_model, build_task
from indattn.theory import run
from indattn.theory.training import by_layer, checkpoints, half_way, measure_model, order
from indattn.training import train

SMALL = ["model.layers=2", "model.width=16", "model.heads=2", "task.n=4", "task.values=5"]
BRIEF = [
    *SMALL,
    *("training.steps=6", "training.batch_size=8", "training.evaluate_every=3", "task.test_size=20"),
    *("task.validation_size=40", "figures=false", "training.keep_checkpoints=[0,3]"),
]


def parts(compose, *overrides):
    """A fresh model in evaluation mode, its task, a misaligned batch and its aligned twin."""
    config = compose(*SMALL, "task.validation_size=30", *overrides)
    task = build_task(config)
    batch, twin = (
        task.split("validation", build_misalignment(config, task, noise=noise)) for noise in (config.noise, 0.0)
    )
    torch.manual_seed(1)
    return build_model(config, task).eval(), task, batch, twin


@pytest.mark.parametrize("kind", ["shift", "shuffle", "additive"])
def test_the_twin_is_the_same_example_aligned(compose, kind):
    _, _, batch, twin = parts(compose, "noise=1", f"misalignment={kind}")
    assert torch.equal(batch["context"], twin["context"])
    assert torch.equal(batch["targets"], twin["targets"])
    if kind == "shift":
        length = batch["content"].shape[1]
        back = (torch.arange(length) + batch["shift"].unsqueeze(1)) % length
        assert torch.equal(batch["content"].gather(1, back), twin["content"])
        assert batch["shift"].any()


def test_the_right_value_stands_where_the_task_says(compose):
    _, task, batch, twin = parts(compose, "noise=1")
    for one in (batch, twin):
        assert torch.equal(one["content"].gather(1, task.answer_positions(one)), one["targets"])
    _, task, shuffled, _ = parts(compose, "noise=1", "misalignment=shuffle")
    assert task.answer_positions(shuffled) is None


@pytest.mark.parametrize("name", ["indirect", "indirect_expected", "standard"])
def test_energies_are_those_of_plain_loops(compose, name):
    model, task, batch, twin = parts(compose, "noise=1", f"model={name}")
    rows = {(row["layer"], row["head"]): row for row in measure_model(model, task, batch, twin)}
    assert len(rows) == 4
    queries = []
    layer = model.decoder.layers[1]
    layer.attention.register_forward_pre_hook(lambda _, given: queries.append(given[:2]))
    with torch.no_grad():
        _, output = model(batch, record=True)
        _, aligned = model(twin, record=True)
        query, context = queries[0]
        content, twin_content = model.content_encoder(batch), model.content_encoder(twin)
        for head in range(2):
            mine = slice(8 * head, 8 * head + 8)
            q, k = layer.attention.q_proj(query)[..., mine], layer.attention.k_proj(context)[..., mine]
            v, twin_v = layer.attention.v_proj(content)[..., mine], layer.attention.v_proj(twin_content)[..., mine]
            k = torch.cat([k, layer.attention.k_proj(torch.zeros(30, v.shape[1] - k.shape[1], 16))[..., mine]], 1)
            sums = {"values_signal": 0.0, "gamma": 0.0, "forward_noise": 0.0, "sharpness": 0.0, "right_weight": 0.0}
            for example in range(30):
                for i in range(4):
                    weights = output.weights[1][example, head, i]
                    read = weights @ v[example]
                    meant = (k[example] @ q[example, i] / math.sqrt(8)).softmax(0) @ twin_v[example]
                    forward = aligned.weights[1][example, head, i] @ twin_v[example]
                    sums["values_signal"] += (meant @ meant).item()
                    sums["gamma"] += (read - meant).square().sum().item()
                    sums["forward_noise"] += (read - forward).square().sum().item()
                    sums["sharpness"] += weights.square().sum().item()
                    sums["right_weight"] += weights[task.answer_positions(batch)[example, i]].item()
            for key, value in sums.items():
                assert rows[2, head + 1][key] == pytest.approx(value / 120, rel=1e-4), key


def test_standard_attention_at_noise_0_is_its_own_twin(compose):
    model, task, batch, twin = parts(compose, "noise=0", "model=standard")
    heads = pd.DataFrame(measure_model(model, task, batch, twin))
    labels = {"task": "t", "model": "m", "noise": 0.0, "seed": 0, "hash": "h", "chance": 0.1, "ceiling": math.nan}
    layers = by_layer(heads.assign(**labels, step=0))
    assert len(layers) == 2
    assert (layers["gamma"] == 0).all()
    assert (layers[["snr_values", "snr_forward", "snr_centred"]] == math.inf).all().all()


def test_keys_and_values_of_one_sequence_have_no_aligned_values(compose):
    for name in ("cross", "fusion"):
        rows = measure_model(*parts(compose, "noise=1", f"model={name}"))
        assert all(math.isnan(row["gamma"]) and row["forward_noise"] > 0 for row in rows)


def test_half_of_a_rise_is_found_between_checkpoints():
    steps = np.array([0.0, 10.0, 20.0, 30.0])
    assert half_way(steps, np.array([0.0, 0.0, 1.0, 1.0]), 0.5) == 15
    assert half_way(steps, np.array([1.0, 0.0, 0.5, 1.0]), 0.5) == 20  # from its lowest value, for the last time
    assert math.isnan(half_way(steps, np.array([0.0, 0.0, 0.1, 0.2]), 0.5))
    assert math.isnan(half_way(steps, np.array([0.0, 0.0, math.inf, math.inf]), 0.5))
    assert math.isnan(half_way(steps, np.array([1.0, 0.8, 0.5, 0.2]), 0.5))


def test_what_rises_first_leads():
    curves = [
        {"task": "t", "model": "m", "noise": 1.0, "layer": 1, "seed": seed, "hash": str(seed), "step": step}
        | {"accuracy": float(step >= 30), "snr_forward": 10.0 if step >= 10 + 2 * seed else 1.0}
        | {"snr_centred": 1.0, "snr_values": 1.0, "right_weight": math.nan}
        for seed in (0, 1)
        for step in range(0, 41)
    ]
    events = order(pd.DataFrame(curves)).set_index("event")
    assert events.loc["snr_forward", "seeds"] == 2
    assert events.loc["snr_forward", "lead"] == pytest.approx(19)
    assert events.loc["snr_forward", "low"] < 19 < events.loc["snr_forward", "high"]
    assert events.loc["snr_values", "seeds"] == 0
    assert events.loc["right_weight", "seeds"] == 0


def test_the_command_follows_runs(compose, capsys):
    for overrides in (["noise=1"], ["noise=0"], ["noise=1", "model=cross"]):
        done, _ = train(compose(*BRIEF, *overrides))
    assert list(checkpoints(done)) == [0, 3, 6]
    plain, _ = train(compose(*BRIEF, "noise=0.5", "training.keep_checkpoints=[]"))
    config = compose("theory=[training]", "examples=16", "format=csv", verb="theory")
    capsys.readouterr()
    run(config)
    out = capsys.readouterr().out
    assert out.startswith("model,noise,layer,accuracy")
    root = done.path.parents[5]
    layers = pd.read_csv(root / "tables/theory-training-synthetic.csv")
    assert len(layers) == 3 * 3 * 2  # runs that kept checkpoints, checkpoints, layers
    assert set(layers["step"]) == {0, 3, 6}
    assert len(pd.read_csv(root / "tables/theory-training-synthetic-heads.csv")) == 3 * 2 * 2
    assert {path.name for path in (root / "figures").glob("*.png")} == {
        f"theory-training-synthetic-{end}.png"
        for end in ("snr-forward", "snr-centred", "snr-values", "right-weight", "sharpness", "noise")
    }
    assert not any(plain.path.glob("step-*"))
    run(compose("theory=[training]", "examples=16", "where.model=cross", "suffix=one", verb="theory"))
    one = pd.read_csv(root / "tables/theory-training-synthetic-one.csv")
    assert set(one["model"]) == {"cross"}
    pd.testing.assert_frame_equal(pd.read_csv(root / "tables/theory-training-synthetic.csv"), layers)
    assert (root / "figures/theory-training-synthetic-snr-forward-one.png").is_file()


def test_bad_input_gets_one_line(compose, command, tmp_path):
    done, _ = train(compose(*BRIEF, "training.keep_checkpoints=[]"))
    other = tmp_path / "other"
    for overrides in ([], ["seed=1", "training.lr=0.01"]):
        config = compose(*BRIEF, *overrides)
        config.results_dir = str(other)
        train(config)
    for words, said in (
        ([f"run={done.path}"], f"{done.path} kept no checkpoints; train it with training.keep_checkpoints="),
        ([f"results_dir={tmp_path / 'results'}"], f"no finished run in {tmp_path / 'results'} kept checkpoints"),
        ([f"results_dir={other}"], "runs of synthetic differ in more than model, noise and seed (lr=0.002 / lr=0.01)"),
        (["format=xml"], "format=xml: must be one of"),
        (["suffix=a/b"], "suffix=a/b: must be of letters, digits, - and _"),
        (["examples=0"], "examples=0: must be a whole number of at least 1"),
        (["run=nowhere"], "nowhere: no such folder"),
    ):
        code, _, error = command("theory", "training", *words)
        assert code == 2
        assert error.startswith(f"indattn: {said}")
        assert error.count("\n") == 1
