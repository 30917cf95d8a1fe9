"""What heads go by: shares of scores and biases whose parts are known, their tables and figure."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from indattn.cli import main
from indattn.plot import heads
from indattn.plot.scores import run_table
from indattn.recording import of_heads, shares
from indattn.runs import find_runs


def made(content, bias):
    """Weights of the scores ``content + bias``, and the bias."""
    return (content + bias).softmax(-1), bias


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 3), st.floats(0.1, 3))
def test_the_share_of_position_is_that_of_the_variance(of_content, of_bias):
    content, bias = of_content * noise(40, 2, 6, 50), of_bias * noise(1, 2, 6, 50, seed=1)
    position, data = shares(*made(content, bias))
    torch.testing.assert_close(position, torch.full_like(position, of_bias**2 / (of_bias**2 + of_content**2)),
                               atol=0.08, rtol=0)  # fmt: skip
    assert (data < 1e-12).all()  # the same bias in every example


def test_pure_heads_are_at_the_ends():
    zero = torch.zeros(8, 1, 3, 5, dtype=torch.float64)
    position, data = shares(*made(zero, noise(8, 1, 3, 5)))
    assert position.item() == pytest.approx(1)
    assert data.item() == pytest.approx(7 / 8, abs=0.05)  # eight independent biases about their mean
    position, data = shares(*made(noise(8, 1, 3, 5), zero))
    assert position.item() == pytest.approx(0)
    assert data.item() == 0


def test_constants_of_a_row_do_not_count():
    content, bias = noise(4, 2, 3, 5), noise(4, 2, 3, 5, seed=1)
    rows = 10 * noise(4, 2, 3, 1, seed=2)
    torch.testing.assert_close(shares(*made(content + rows, bias - rows)), shares(*made(content, bias)))


def test_a_recording_without_a_bias_says_nothing():
    assert of_heads({}) == {}


def test_runs_tell_of_their_heads_and_the_record_too(tmp_path, capsys, monkeypatch):
    def run(*words):
        monkeypatch.setattr("sys.argv", ["indattn", *words, f"results_dir={tmp_path}"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0, capsys.readouterr().err

    small = ("size=small", "model.layers=2", "model.heads=2", "model.width=16", "training.steps=2", "figures=false")
    run("train", "task=sorting", *small)
    run("train", "task=sorting", "model=standard", *small)
    [indirect] = find_runs(tmp_path, model="indirect")
    [standard] = find_runs(tmp_path, model="standard")
    told = json.loads((indirect.path / "result.json").read_text())["heads"]
    assert [len(layer) for layer in told["position_share"]] == [2, 2]
    assert told["data_share"][0] == [0, 0]  # the first layer's bias is a function of the offset alone
    assert "heads" not in standard.result()
    table = heads.by_head(run_table([indirect, standard]))
    assert table["model"].unique().tolist() == ["indirect"]
    summary = heads.by_run(table).iloc[0]
    assert summary["between"] == pytest.approx(table["position_share"].max() - table["position_share"].min())
    assert summary["first_data_share"] == 0
    run("plot", "heads")
    written = pd.read_csv(tmp_path / "tables" / "heads-sorting-runs.csv")
    assert written["most_position"].tolist() == pytest.approx([table["position_share"].max()], abs=1e-5)
    assert (tmp_path / "figures" / "heads-sorting.png").is_file()
    run("train", "task=sorting", "task.orders=2", *small)
    run("plot", "heads")
    written = pd.read_csv(tmp_path / "tables" / "heads-sorting.csv")
    assert set(written["variant"]) == {"orders=2", "orders=5"}  # kinds of their own in the figure
