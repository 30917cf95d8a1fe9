import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from indattn.bench import _stem, bench_models, bench_step, run
from indattn.bench.attention import PLAIN, VARIANTS, Case, Sizes, Variant, _process_peaks
from indattn.bench.models import MODELS
from indattn.bench.step import TrainingStep, with_model
from indattn.errors import UserError

FAMILIES_STORED = ("gaussian", "fourier", "mlp", "t5", "alibi")
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
    small = ("self_attention=[false]", "model.layers=2")
    config = compose("bench=[profile]", "models=[indirect]", *small, verb="bench")
    config.results_dir = str(tmp_path)
    run(config)
    table = pd.read_csv(tmp_path / "tables" / "bench_profile.csv")
    assert {"aten::addmm", "aten::mm"} <= set(table["operator"])
    assert table["milliseconds"].is_monotonic_decreasing
    assert 0.3 < table["share"].sum() <= 1
    assert (table["calls"] > 0).all()


def growing(compose, *overrides):
    config = compose("bench=[models]", "task=synthetic", "rounds=1", "steps=1", "training.batch_size=4",
                     "model.layers=1", "model.width=16", *overrides, verb="bench")  # fmt: skip
    return config


def test_models_grow_with_the_length(compose, tmp_path):
    config = growing(compose, "growth.lengths=[8,4]", "growth.memory=false")
    config.results_dir = str(tmp_path)
    run(config)
    table = pd.read_csv(tmp_path / "tables" / "bench_models.csv")
    assert list(table) == ["model", "n", "parameters", "step_gflops", "milliseconds", "milliseconds_error",
                           "ratio", "ratio_low", "ratio_high", "memory_mb"]  # fmt: skip
    assert set(map(tuple, table[["model", "n"]].to_numpy())) == {(model, n) for model in MODELS for n in (4, 8)}
    assert len(table) == 2 * len(MODELS)
    assert (table["milliseconds"] > 0).all()
    assert (table.loc[table["model"] == "standard", ["ratio", "ratio_low", "ratio_high"]] == 1).all(axis=None)
    wide = table.pivot(index="model", columns="n", values="step_gflops")
    assert (wide[8] > wide[4]).all()
    assert (table.groupby("n")["parameters"].agg(lambda p: p.max() / p.min()) < 1.1).all()  # matched, as in training
    assert (tmp_path / "figures" / "bench_models.png").stat().st_size > 10_000
    assert "torch" in json.loads((tmp_path / "tables" / "bench_models.json").read_text())["versions"]


def test_backends_and_precision_can_be_chosen(compose, tmp_path):
    config = compose(
        "bench=[attention]",
        "rounds=1",
        "attention.lengths=[16]",
        "attention.heads=2",
        "attention.backends=[table,sdpa]",
        "attention.precision=bf16",
        "attention.memory=false",
        verb="bench",
    )
    config.results_dir = str(tmp_path)
    run(config)
    table = pd.read_csv(tmp_path / "tables" / "bench_attention-bf16.csv")
    measured = set(zip(table["family"], table["backend"], strict=True))
    assert measured == {("none", "sdpa"), ("mlp", "table"), *((f, "sdpa") for f in FAMILIES_STORED)}
    case = Case(Variant("mlp", "table"), Sizes([16], heads=2, precision="bf16"), 16, torch.device("cpu"))
    assert {x.dtype for x in (case.q, case.k, case.v, case.forward())} == {torch.bfloat16}
    assert case.centres.dtype == torch.float32


def test_files_are_named_by_the_device(compose):
    config = compose("attention.precision=bf16", verb="bench")
    stems = [_stem(name, config, torch.device(kind)) for name in ("step", "attention") for kind in ("cpu", "cuda")]
    assert stems == ["bench_step", "bench_step-cuda", "bench_attention-bf16", "bench_attention-cuda-bf16"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory needs Linux's /proc")
def test_memory_of_a_step_grows_with_the_length(compose):
    config = growing(compose, "growth.lengths=[16,128]", "models=[standard]", "training.batch_size=32")
    short, long = (row["memory_mb"] for row in bench_models(config, torch.device("cpu")))
    ffn = 32 * 257 * 4 * 16 * 4 / 1e6  # what enters and what leaves the ReLU is kept
    assert 2 * ffn < long < 50 * ffn
    assert short < long / 3


def products(m, width, ffn, layers, self_attention=True):
    """Operations of an example's forward pass: projections, scores and sums of values, feed-forward blocks."""
    attention = 4 * 2 * m * width**2 + 2 * 2 * m**2 * width
    return layers * ((1 + self_attention) * attention + 2 * 2 * m * width * ffn)


@pytest.mark.parametrize("self_attention", [True, False])
def test_operations_are_those_counted_by_hand(compose, self_attention):
    n, width, layers, values, batch = 4, 16, 2, 16, 4
    config = growing(compose, "growth.lengths=[4]", "growth.memory=false", "models=[standard,double_cross]",
                     "model.match_parameters=false", "model.layers=2",
                     f"model.self_attention={self_attention}")  # fmt: skip
    standard, double = (row["step_gflops"] * 1e9 for row in bench_models(config, torch.device("cpu")))
    content, context = 2 * n + 1, n + 1
    forward = products(content, width, 4 * width, layers, self_attention) + 2 * n * width * values
    assert standard == pytest.approx(3 * batch * forward)  # the backward has two products for each of the forward
    fuse = 2 * 2 * (content + context) * width**2 + 2 * 2 * content * context * width
    assert double - standard == pytest.approx(3 * batch * fuse)


def test_operations_do_not_depend_on_the_backend(compose):
    counted = set()
    for backend in ("auto", "sdpa", "table", "blocked"):
        config = growing(compose, f"model.backend={backend}")
        counted.add(TrainingStep(with_model(config, "indirect", True), torch.device("cpu")).flops())
    config.training.batch_size = 7  # of which two are counted
    config.growth = {"lengths": [16], "memory": False}
    config.models = ["indirect"]
    (row,) = bench_models(config, torch.device("cpu"))
    whole = TrainingStep(with_model(config, "indirect", True), torch.device("cpu")).flops()
    assert len(counted) == 1
    assert row["step_gflops"] * 1e9 == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("name", ["standard", "cross", "indirect_expected", "indirect_expected_shared"])
def test_the_models_are_those_of_training(compose, name):
    bench = with_model(growing(compose), name, True)
    trained = compose("task=synthetic", f"model={name}", "training.batch_size=4", "model.layers=1",
                      "model.width=16")  # fmt: skip
    assert bench.model == trained.model
    assert bench.training == trained.training
    assert bench.task == trained.task


@pytest.mark.parametrize(
    ("override", "said"),
    [("models=[standard,indirct]", "'indirect'"), ("growth.lengths=[0]", "growth.lengths=[0]"),
     ("growth.lengths=16", "growth.lengths=[16,64]"), ("growth.lengths=[1.5]", "whole numbers"),
     ("models=standard", "models=[standard,indirect]"), ("task=sorting", "task=synthetic")],
)  # fmt: skip
def test_bad_growth_is_one_line(compose, override, said):
    config = growing(compose, "growth.lengths=[4]", "growth.memory=false", "models=[standard]", override)
    with pytest.raises(UserError) as caught:
        run(config)
    assert "\n" not in str(caught.value)
    assert said in str(caught.value)


def test_bench_models_needs_no_task_on_the_command_line(command):
    code, out, err = command("bench", "models", "growth.lengths=[4]", "growth.memory=false", "models=[standard]",
                             "rounds=1", "steps=1", "model.layers=1", "format=csv")  # fmt: skip
    assert (code, out.splitlines()[1].split(",")[:2]) == (0, ["standard", "4"]), err


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
     "attention.head_width=2.5", "attention.batch=0", "attention.backends=[tabel]", "attention.precision=fp8",
     "attention.offset_scale=0", "bench=[stap]", "rounds=0"],
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
