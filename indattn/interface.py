"""Runs from Python: :func:`load_run`, and folders that other projects load without Hydra (`indattn export`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors

from indattn.build import build_misalignment, build_model, build_task
from indattn.errors import UserError
from indattn.evaluation import load_model
from indattn.misalignment import Misalignment
from indattn.models.base import Model
from indattn.runs import atomic, open_run, write_json
from indattn.tasks.base import Task

__all__ = ["LoadedRun", "export", "load_export", "load_run"]


@dataclass(frozen=True)
class LoadedRun:
    """A trained model, and what there is to know of its run.

    ``model(batch)`` gives what the task reads (of sequence tasks logits ``(B, r, classes)``) and what the decoder
    computed; batches come from ``task.split("test", misalignment)``.

    Attributes:
        path: the run's or the export's folder.
        model: in eval mode, on the CPU, its trained weights loaded.
        config: the complete configuration as plain dicts and lists.
        metrics: the learning curve, a dict an evaluation (``step``, ``accuracy``, ``loss``, ``train_loss``, ...).
        result: ``result.json``; of an export without the scores of single examples.
        task: data, loss and scores.
        misalignment: of the kind and level the model was trained with.
    """

    path: Path
    model: Model
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    result: dict[str, Any]
    task: Task
    misalignment: Misalignment


def load_run(path: str | Path) -> LoadedRun:
    """A finished run of a results tree, ready to use.

    Args:
        path: its folder, ``results/runs/TASK/MODEL/noise-X/seed-K/HASH``.

    Raises:
        UserError: if it is no run, not finished, or damaged.
    """
    run = open_run(path)
    result, config = run.result(), run.config()
    plain = OmegaConf.to_container(config, resolve=True)
    task = build_task(config)
    config.device = "cpu"
    model = load_model(run, task, config)
    return _loaded(run.path, model, plain, run.metrics(), result, task, config)


def load_export(folder: str | Path) -> LoadedRun:
    """What :func:`export` wrote, ready to use. Imports no Hydra.

    Raises:
        UserError: if the folder is no export, or damaged.
    """
    path = Path(folder)
    try:
        plain, metrics, result = (
            json.loads((path / f"{name}.json").read_text(encoding="utf-8")) for name in ("config", "metrics", "result")
        )
        config = OmegaConf.create(plain)
        task = build_task(config)
        model = build_model(config, task)
        model.load_state_dict(load_file(path / "model.safetensors"))
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not what indattn export writes: it has no {Path(error.filename).name}") from error
    except UserError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{folder} is damaged ({reason}); export the run again") from error
    return _loaded(path, model, plain, metrics, result, task, config)


def _loaded(
    path: Path, model: Any, plain: Any, metrics: list[dict[str, Any]], result: dict[str, Any], task: Task, config: Any
) -> LoadedRun:
    return LoadedRun(path, model.eval(), plain, metrics, result, task, build_misalignment(config, task))


README = """# {task}, {model}, noise {noise:g}, seed {seed}

A model trained with indattn {version}: test {metric} {accuracy:.4f}.

- `model.safetensors`: the weights
- `config.json`: the complete configuration
- `metrics.json`: the learning curve; `result.json`: scores, parameters, versions, commit, hardware

```python
import torch
from indattn import load_export  # of the package indattn; Hydra is not imported

run = load_export("{folder}")
batch = run.task.split("test", run.misalignment)  # or a batch of your own with the same keys
with torch.no_grad():
    output, decoded = run.model(batch)
```
"""


def export(path: str | Path, out: str | Path | None = None) -> Path:
    """Write a finished run as a folder that other projects load by :func:`load_export`, without Hydra.

    It has the weights (safetensors), configuration, curve and result as JSON, and a README with the code that loads it.
    The width that matching parameters chose is written down, so that the model stays as it is.

    Args:
        path: the run's folder.
        out: the new folder; ``None``: ``TASK-MODEL-noise-X-seed-K-HASH`` in the current one.

    Raises:
        UserError: if the run is not finished or damaged, or the folder is there and not empty.
    """
    loaded = load_run(path)
    folder = Path("-".join(loaded.path.parts[-5:]) if out is None else str(out))
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"out={folder}: is there and not empty; name another folder")
    free = type(loaded.model).free_width
    identity = {key: loaded.config[key] for key in ("task", "model", "misalignment", "noise", "seed", "training")}
    width = {free: getattr(loaded.model.config, free), "match_parameters": False, "backend": "auto"}
    config = {**identity, "model": {**identity["model"], **width}, "device": "cpu"}
    result = {key: value for key, value in loaded.result.items() if key != "per_example"}
    write_json(folder / "config.json", config)
    write_json(folder / "metrics.json", loaded.metrics)
    write_json(folder / "result.json", result)
    with atomic(folder / "README.md") as file:
        about = {key: result[key] for key in ("task", "model", "noise", "seed")}
        version, accuracy = result["versions"]["indattn"], result["test"]["accuracy"]
        metric = result.get("metric", "accuracy")
        file.write(README.format(**about, version=version, metric=metric, accuracy=accuracy, folder=folder.name))
    weights = {key: value.contiguous().clone() for key, value in loaded.model.state_dict().items()}
    with atomic(folder / "model.safetensors", "wb") as file:
        file.write(to_safetensors(weights))
    return folder


def run(config: DictConfig) -> None:
    """The verb ``export``."""
    paths = list(config.run) if isinstance(config.run, ListConfig) else [config.run] if config.run else []
    if len(paths) != 1:
        raise UserError("which run? give one finished run's folder: indattn export RUN (`indattn show` lists them)")
    print(export(paths[0], config.out))
