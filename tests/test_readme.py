"""What the README shows, works as it stands."""

import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).resolve().parent.parent / "README.md"
CODE = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL) if README.is_file() else []


@pytest.mark.parametrize("code", CODE)
def test_python_code_runs(code):
    torch.manual_seed(0)
    exec(compile(code, str(README), "exec"), {})


def test_there_is_code():
    assert len(CODE) >= 2
