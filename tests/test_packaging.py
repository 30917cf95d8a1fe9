"""What is built: the configuration tree and the licence are in it, and it composes where no checkout is."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source distribution, and the wheel built from it."""
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("no checkout: nothing to build from")
    for module in ("build", "hatchling"):
        found = importlib.util.find_spec(module)
        if found is None or found.origin is None:
            pytest.skip(f"{module} is not installed (pip install '.[dev]' hatchling)")
    folder = tmp_path_factory.mktemp("dist")
    process = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(process, cwd=folder, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return source, wheel


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory):
    """The wheel's contents, as they lie once installed."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(built[1]) as wheel:
        wheel.extractall(folder)
    return folder


def test_the_wheel_has_the_configurations_once(unpacked):
    assert CONFIGS
    for name in CONFIGS:
        assert (unpacked / "indattn" / name).read_text() == (ROOT / name).read_text()
    shipped = {path.relative_to(unpacked / "indattn").as_posix() for path in unpacked.rglob("*.yaml")}
    assert shipped == set(CONFIGS)


def test_the_wheel_has_every_module_and_nothing_else(unpacked):
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "indattn").rglob("*.py")}
    assert {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*.py")} == modules
    assert (unpacked / "indattn" / "py.typed").is_file()
    assert {path.name.split("-")[0] for path in unpacked.iterdir()} == {"indattn"}


def test_the_wheel_has_what_the_report_is_made_of(unpacked):
    here = ROOT / "indattn" / "report" / "templates"
    there = unpacked / "indattn" / "report" / "templates"
    assert {path.name: path.read_text() for path in there.iterdir()} == {p.name: p.read_text() for p in here.iterdir()}


def test_the_wheel_has_licence_and_command(unpacked):
    (information,) = unpacked.glob("*.dist-info")
    (licence,) = information.rglob("LICENSE")
    assert licence.read_text() == (ROOT / "LICENSE").read_text()
    assert "indattn = indattn.cli:main" in (information / "entry_points.txt").read_text()
    metadata = (information / "METADATA").read_text()
    assert "Name: indattn" in metadata
    assert "Requires-Python: <3.14,>=3.10" in metadata
    assert (ROOT / "README.md").read_text()[:60] in metadata


def test_the_version_is_the_package_s(built):
    import indattn

    assert f"-{indattn.__version__}-" in built[1].name


def test_the_source_distribution_has_what_a_developer_needs(built):
    with tarfile.open(built[0]) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "Makefile", "tests/test_packaging.py", *CONFIGS} <= names
    assert not [name for name in names if name.startswith("results/runs") or "__pycache__" in name]


CODE = """
import sys
import indattn
from indattn.config import configs_dir
from hydra import compose, initialize_config_dir

print(indattn.__file__)
print(configs_dir())
with initialize_config_dir(str(configs_dir()), version_base="1.3"):
    for verb in ("train", "evaluate", "show"):
        config = compose(verb)
    for task in ("synthetic", "sorting", "sequence_retrieval"):
        config = compose("train", overrides=["task=" + task, "model=standard", "noise=0.5"])
        assert config.task.name == task and config.model.name == "standard" and config.noise == 0.5
assert "torch" not in sys.modules
"""


def in_site(unpacked, tmp_path, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "PYTHONSAFEPATH": "1"}
    environment.pop("INDATTN_RESULTS", None)
    process = [sys.executable, *arguments]
    return subprocess.run(process, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)


def test_what_is_installed_composes_in_an_empty_folder(unpacked, tmp_path):
    done = in_site(unpacked, tmp_path, "-c", CODE)
    assert done.returncode == 0, done.stderr
    package, configs = done.stdout.splitlines()
    assert Path(package) == unpacked / "indattn" / "__init__.py", "the test must import what it unpacked"
    assert Path(configs) == unpacked / "indattn" / "configs"
    assert os.listdir(tmp_path) == []


def test_the_installed_help_names_the_groups(unpacked, tmp_path):
    done = in_site(unpacked, tmp_path, "-m", "indattn.cli", "train", "--help")
    assert done.returncode == 0, done.stderr
    assert "sequence_retrieval, sorting, speech_text_alignment, synthetic" in done.stdout


USE = """
import sys
import indattn, torch
from indattn.attention import IndirectAttention

assert indattn.__file__.startswith(sys.prefix), indattn.__file__
for bias in ("none", "mlp", "gaussian", "fourier"):
    layer = IndirectAttention(32, 4, bias=bias)
    query, context, content = torch.randn(2, 5, 32), torch.randn(2, 7, 32), torch.randn(2, 9, 32)
    output, centres, weights, f = layer(query, context, content)
    output.sum().backward()
    assert output.shape == (2, 5, 32) and all(p.grad is not None for p in (layer.q_proj.weight, layer.k_proj.weight))
print("used")
"""


def test_the_wheel_installs_into_an_empty_environment_and_works(built, tmp_path):
    prefix = tmp_path / "environment"
    run = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 100}
    made = subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(prefix)], **run)
    assert made.returncode == 0, made.stderr
    python = prefix / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install"]
    done = subprocess.run([*pip, "--no-deps", "--no-index", str(built[1])], **run)
    assert done.returncode == 0, done.stderr
    # What it depends on is lent from here; nothing of the checkout is, whose own .pth file does not count there.
    (site,) = (prefix / "lib").glob("python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    used = subprocess.run([str(python), "-c", USE], env=environment, **run)
    assert used.returncode == 0, used.stderr
    assert used.stdout == "used\n"
    helped = subprocess.run([str(prefix / "bin" / "indattn"), "--help"], env=environment, **run)
    assert helped.returncode == 0, helped.stderr
    assert "indattn train" in helped.stdout
