"""What the page's viewer shows of a few runs: attention weights, centres and biases, kept small enough to be committed.

Folders of runs have recordings and are not committed. Those of the chosen runs that are there are read; of the others
the report keeps what it wrote before, in ``report/recordings.json``::

    {"format": 1, "runs": [{"task", "model", "noise", "seed", "hash", "offsets": [...], "bias": [layer][head][offset],
      "examples": [{"example": 0, "weights": [layer][head][query][value], "centres": [layer][query]}]}]}

Weights are whole thousandths. ``bias`` is f at whole offsets from the centre; it and ``centres`` are null for a model
without a bias.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indattn.errors import UserError
from indattn.plot.plotter import recording
from indattn.runs import LABELS, Run, atomic, scan, wanted

__all__ = ["collect", "write_recordings"]

FORMAT = 1
THOUSANDTHS = 1000


def collect(
    results_dir: Path, kept: Path, task: str, models: list[str], noise: Any, seed: Any, examples: list[int]
) -> list[dict[str, Any]]:
    """The chosen runs, by model in the order given, then by labels: read from folders, or else from ``kept``.

    Args:
        results_dir: the results tree.
        kept: the file of an earlier report; it may be missing.
        task, models, noise, seed: the labels of the runs; noise and seed may be lists.
        examples: which of a run's recorded test examples; those that it has not are left out.

    Raises:
        UserError: if ``kept`` or a recording is damaged.
    """
    chosen = (task, models, noise, seed, None)
    found = {}
    for run in _read(kept):
        mine = [example for example in run["examples"] if example["example"] in examples]
        if mine and all(map(wanted, _key(run), chosen)):
            found[_key(run)] = {**run, "examples": mine}
    for folder, _, _ in scan(results_dir, task, models, noise, seed):
        shown = _shown(folder, examples) if folder.done else None
        if shown is not None and shown["examples"]:
            found[_key(shown)] = shown
    return sorted(found.values(), key=lambda run: (models.index(run["model"]), _key(run)))


def write_recordings(file: Path, runs: list[dict[str, Any]]) -> None:
    """Write them, a line a run."""
    with atomic(file) as out:
        lines = ",\n".join(json.dumps(run, separators=(",", ":")) for run in runs)
        out.write(f'{{"format": {FORMAT}, "runs": [\n{lines}\n]}}\n')


def _read(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, this version reads {FORMAT}")
        for run in content["runs"]:
            _key(run)
            [example["example"] for example in run["examples"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); take it from the repository again, or remove it") from error
    return content["runs"]


def _key(run: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(run[label] for label in LABELS)


def _shown(run: Run, examples: list[int]) -> dict[str, Any] | None:
    try:
        recorded = recording(run)
        if "attention" not in recorded:
            return None
        weights = np.rint(recorded["attention"].astype(float) * THOUSANDTHS).astype(int)  # (L, E, H, m, n)
        centres, bias = recorded.get("centres"), recorded.get("bias_function")
        return {
            **run.labels,
            "offsets": recorded["offsets"].tolist(),
            "bias": None if bias is None else _rounded(bias, 3),
            "examples": [
                {
                    "example": example,
                    "weights": weights[:, example].tolist(),
                    "centres": None if centres is None else _rounded(centres[:, example], 2),
                }
                for example in examples
                if example < weights.shape[1]
            ],
        }
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(
            f"{run.path}/recording.npz is damaged ({error}); train the run again with force=true"
        ) from error


def _rounded(values: NDArray[Any], digits: int) -> Any:
    return (np.round(values.astype(float), digits) + 0.0).tolist()  # no -0.0
