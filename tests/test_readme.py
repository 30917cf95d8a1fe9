"""What the README and docs show, works as it stands."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if page.is_file()]
CODE = [code for page in PAGES for code in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)]
OF_RUNS = [code for code in CODE if "results/runs" in code]
OF_RECORDS = [code for code in CODE if "results/records" in code]


@pytest.mark.parametrize("code", [code for code in CODE if code not in OF_RUNS + OF_RECORDS])
def test_python_code_runs(code):
    torch.manual_seed(0)
    exec(compile(code, "README.md", "exec"), {})


def test_code_that_takes_a_run_runs(compose):
    from indattn.training import train

    sizes = ["model.layers=1", "model.width=8", "model.heads=2", "training.batch_size=4", "training.steps=2"]
    run, _ = train(compose(*sizes, "task.n=4", "task.validation_size=8", "task.test_size=8", "figures=false"))
    (code,) = OF_RUNS
    names = {}
    exec(compile(re.sub(r'"results/runs/[^"]*"', repr(str(run.path)), code), "README.md", "exec"), names)
    assert names["output"].shape == (8, 4, 16)


@pytest.mark.parametrize("code", OF_RECORDS)
def test_code_that_reads_the_record_runs(code, monkeypatch):
    if not (ROOT / "results" / "records").is_dir():
        pytest.skip("no record beside the tests")
    monkeypatch.chdir(ROOT)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert len(names["runs"]) > 0


def test_there_is_code():
    assert len(CODE) >= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """To files that are there, and to headings that they have."""
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    for link in links:
        file, _, heading = link.partition("#")
        there = page.parent / file if file else page
        if (ROOT / "results").is_dir() or "results/" not in file:
            assert there.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.+)$", there.read_text(), flags=re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles], link
