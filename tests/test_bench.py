import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from indattn.bench import bench_step, run
from indattn.bench.attention import PLAIN, VARIANTS, Case, Sizes, Variant, _process_peaks
from indattn.errors import UserError

COLUMNS = {"family", "backend", "columns", "n", "pass", "time_ratio", "memory_ratio"}


def test_step_times_every_model_against_the_first(compose, capsys, tmp_path):
    config = compose(
        "models=[standard,indirect]",
        "rounds=2",
        "steps=1",
        "model.layers=1",
        "model.width=16",
        "format=csv",
        verb="bench",
    )
    config.results_dir = str(tmp_path)
    run(config)
    rows = pd.read_csv(tmp_path / "tables" / "bench_step.csv").to_dict("records")
    assert [(row["self_attention"], row["model"]) for row in rows] == [
        (True, "standard"), (True, "indirect"), (False, "standard"), (False, "indirect"),
    ]  # fmt: skip
    assert all(row["milliseconds"] > 0 and 0 < row["of_matmul_rate"] < 2 and row["gflops"] > 0 for row in rows)
    assert [row["ratio"] for row in rows if row["model"] == "standard"] == [1.0, 1.0]
    assert rows[1]["parameters"] < rows[0]["parameters"] * 1.02
    assert capsys.readouterr().out.splitlines()[0].startswith("task,self_attention,model")
    assert "torch" in json.loads((tmp_path / "tables" / "bench_step.json").read_text())["versions"]


def test_models_differ_only_in_what_their_file_says(compose):
    config = compose("models=[indirect]", "rounds=1", "steps=1", "model.layers=1", "model.width=16", verb="bench")
    before = config.copy()
    assert len(bench_step(config, torch.device("cpu"))) == 2
    assert config == before


def test_profile_says_where_the_time_goes(compose, tmp_path):
    small = ("self_attention=[false]", "model.layers=2", "model.width=16")
    config = compose("bench=[profile]", "models=[indirect]", *small, verb="bench")
    config.results_dir = str(tmp_path)
    run(config)
    table = pd.read_csv(tmp_path / "tables" / "bench_profile.csv")
    assert {"aten::addmm", "aten::mm"} <= set(table["operator"])
    assert table["milliseconds"].is_monotonic_decreasing
    assert 0.3 < table["share"].sum() <= 1
    assert (table["calls"] > 0).all()


def test_attention_writes_table_and_figure(compose, tmp_path):
    config = compose(
        "bench=[attention]",
        "rounds=2",
        "attention.lengths=[16,64]",
        "attention.batch=1",
        "attention.heads=2",
        "attention.families=[gaussian,mlp]",
        "attention.memory=false",
        "format=csv",
        verb="bench",
    )
    config.results_dir = str(tmp_path)
    run(config)
    table = pd.read_csv(tmp_path / "tables" / "bench_attention.csv")
    assert set(table.columns) >= COLUMNS
    assert set(table["pass"]) == {"forward", "forward+backward"}
    assert set(table["family"]) == {"none", "gaussian", "mlp"}
    assert set(table["columns"]) == {"none", "extra", "inside"}
    assert (table.loc[table["family"] == "none", "time_ratio"] == 1).all()
    assert (table["time_ratio"] > 0).all()
    assert not table.duplicated(["family", "backend", "columns", "n", "pass"]).any()
    assert (tmp_path / "figures" / "bench_attention.png").stat().st_size > 10_000


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory needs Linux's /proc")
def test_memory_of_what_stores_its_bias_is_more():
    sizes = Sizes([768], batch=1)
    stored, table = (
        _process_peaks(Variant("mlp", backend), sizes, torch.device("cpu"))[768, "forward+backward"]
        for backend in ("sdpa", "table")
    )
    assert stored > 8 * 768**2 * 4  # the bias, and more
    assert 3 * 768 * 8 * 32 * 4 < table < stored / 2  # the gradients of q, k and v, and some blocks


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.backend != "flex"], ids=str)
def test_every_variant_runs_with_gradients(variant):
    case = Case(variant, Sizes([24], batch=2, heads=2, head_width=24), 24, torch.device("cpu"))
    output = case.forward()
    assert output.shape == (2, 2, 24, 24)
    grads = torch.autograd.grad(output, case.leaves, case.direction)
    assert all(grad.isfinite().all() for grad in grads)
    if variant != PLAIN and variant.family != "alibi":
        assert any(grad.abs().sum() > 0 for grad in grads[3:])


@pytest.mark.parametrize(
    "override",
    ["attention.lengths=[0]", "attention.lengths=5", "attention.lengths=[abc]", "attention.families=[mpl]",
     "attention.head_width=2.5", "attention.batch=0", "attention.offset_scale=0", "bench=[stap]", "rounds=0"],
)  # fmt: skip
def test_bad_input_is_one_line(compose, override, tmp_path):
    config = compose("bench=[attention]", override, verb="bench")
    config.results_dir = str(tmp_path)
    with pytest.raises(UserError) as caught:
        run(config)
    assert "\n" not in str(caught.value)
    assert override.partition("=")[0].rpartition(".")[2] in str(caught.value)


def test_a_sweep_is_timed_beside_one_of_its_runs(compose, tmp_path, monkeypatch):
    from indattn.bench import sweep

    monkeypatch.setattr(sweep, "RUNS", 2)
    monkeypatch.setattr(sweep, "processors", lambda: 1)
    monkeypatch.setattr(sweep, "RUN", ("model=standard", "noise=0.5", "training.steps=2", "training.evaluate_every=2"))
    config = compose("bench=[sweep]", "rounds=1", verb="bench")
    config.results_dir = str(tmp_path)
    run(config)
    (row,) = pd.read_csv(tmp_path / "tables" / "bench_sweep.csv").to_dict("records")
    assert row["runs"] == 2
    assert row["efficiency"] == pytest.approx(2 * row["one run alone, s"] / (row["processes"] * row["sweep, s"]))
    assert 0 < row["its training, s"] < row["one run alone, s"]


def test_the_start_of_a_run_is_measured_beside_torch(compose, tmp_path):
    config = compose("bench=[startup]", "rounds=1", verb="bench")
    config.results_dir = str(tmp_path)
    run(config)
    rows = {row["command"]: row for row in pd.read_csv(tmp_path / "tables" / "bench_startup.csv").to_dict("records")}
    assert rows["python -c 'import torch'"]["to torch"] == 1
    start = rows["indattn train, to its first step"]
    assert start["seconds"] > rows["python -c 'import torch'"]["seconds"] * 0.8  # it does import torch
