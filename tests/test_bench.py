import json

from indattn.bench import bench_step, run


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
    rows = json.loads((tmp_path / "tables" / "bench_step.json").read_text())["rows"]
    assert [(row["self_attention"], row["model"]) for row in rows] == [
        (True, "standard"), (True, "indirect"), (False, "standard"), (False, "indirect"),
    ]  # fmt: skip
    assert all(row["milliseconds"] > 0 for row in rows)
    assert [row["ratio"] for row in rows if row["model"] == "standard"] == [1.0, 1.0]
    assert rows[1]["parameters"] < rows[0]["parameters"] * 1.02
    assert capsys.readouterr().out.splitlines()[0].startswith("task,self_attention,model")


def test_models_differ_only_in_what_their_file_says(compose):
    import torch

    config = compose("models=[indirect]", "rounds=1", "steps=1", "model.layers=1", "model.width=16", verb="bench")
    before = config.copy()
    assert len(bench_step(config, torch.device("cpu"))) == 2
    assert config == before
