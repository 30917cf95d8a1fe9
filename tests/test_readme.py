"""What the README shows, works as it stands."""

import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).resolve().parent.parent / "README.md"
CODE = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL) if README.is_file() else []
OF_RUNS = [code for code in CODE if "results/runs" in code]


@pytest.mark.parametrize("code", [code for code in CODE if code not in OF_RUNS])
def test_python_code_runs(code):
    torch.manual_seed(0)
    exec(compile(code, str(README), "exec"), {})


def test_code_that_takes_a_run_runs(compose):
    from indattn.training import train

    sizes = ["model.layers=1", "model.width=8", "model.heads=2", "training.batch_size=4", "training.steps=2"]
    run, _ = train(compose(*sizes, "task.n=4", "task.validation_size=8", "task.test_size=8", "figures=false"))
    (code,) = OF_RUNS
    names = {}
    exec(compile(re.sub(r'"results/runs/[^"]*"', repr(str(run.path)), code), str(README), "exec"), names)
    assert names["output"].shape == (8, 4, 16)


def test_there_is_code():
    assert len(CODE) >= 2
