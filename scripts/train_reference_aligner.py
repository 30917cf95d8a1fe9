"""Train the model that `indattn align` uses by default, and put it into the package.

    python scripts/train_reference_aligner.py [RUN]

Some five minutes on a core once the corpus is there: cross-attention with pointers on synthetic speech at drift 0.25,
seed 0. A finished RUN of such a training is taken instead of a new one.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from indattn.alignment.trained import REFERENCE, load_aligner
from indattn.config import IDENTITY
from indattn.runs import open_run

OPTIONS = (
    "task=speech_text_alignment",
    "task.formulation=pointer",
    "model=cross",
    "noise=0.25",
    "seed=0",
    "training.lr=0.001",
)
LARGEST = 5_000_000


def main() -> None:
    """Train, or take what was trained, and copy what a model is made from."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else _trained(Path(folder))
        run = open_run(path)
        result = run.result()
        config = run.config()
        kept = OmegaConf.create({key: config[key] for key in (*IDENTITY, "device")})
        # The width that was matched is written down: matching it again would take two of the seconds of every start.
        kept.model.ffn, kept.model.match_parameters = load_aligner(path).config.ffn_width, False
        REFERENCE.mkdir(parents=True, exist_ok=True)
        (REFERENCE / "config.yaml").write_text(OmegaConf.to_yaml(kept), encoding="utf-8")
        weights = load_file(run.path / "model.safetensors")
        save_file(weights, REFERENCE / "model.safetensors")
    size = (REFERENCE / "model.safetensors").stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{size:,} bytes: more than the {LARGEST:,} that the package has room for")
    test = result["test"]
    print(
        f"{REFERENCE}: {size / 1e6:.1f} MB; word starts of the test at its level: median "
        f"{test['start_median_ms']:.1f} ms, mean {test['start_mean_ms']:.1f} ms"
    )


def _trained(folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "indattn.cli", "train", *OPTIONS, "figures=false", f"results_dir={folder}"], check=True
    )
    return next(folder.rglob("result.json")).parent


if __name__ == "__main__":
    main()
