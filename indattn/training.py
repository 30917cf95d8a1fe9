"""The training loop and `indattn train`. It knows no task and no model by name."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from typing import Any

import torch
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save as to_safetensors
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from indattn.build import build_misalignment, build_model, build_task, model_class
from indattn.config import TrainingConfig, as_floats, check_noise, check_seed, section
from indattn.environment import describe, pick_device, set_threads
from indattn.errors import Interrupted, UserError
from indattn.misalignment import Batch
from indattn.models.matching import count_parameters
from indattn.provenance import code_hash
from indattn.recording import save_recording
from indattn.runs import FORMAT, Run, atomic, write_json
from indattn.tasks.base import Scores, to_device

__all__ = ["Trainer", "run", "train"]

TARGET_ACCURACY = 0.9


class Trainer:
    """Trains one run in its folder, from the start or from its saved state.

    Args:
        config: a complete configuration.

    Raises:
        UserError: for anything wrong in the configuration, before anything is written.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        for section_, schema in (("model", model_class(config).config_class), ("training", TrainingConfig)):
            as_floats(config, section_, schema)
        check_noise(config.noise)
        check_seed(config.seed)
        for key in ("force", "figures"):
            if not isinstance(config[key], bool):
                raise UserError(f"{key}={config[key]}: must be true or false")
        self.settings = section(TrainingConfig, config.training, "training")
        self.task = build_task(config)
        self.misalignment = build_misalignment(config, self.task)
        self.device = pick_device(config.device)
        self.run = Run.of(config)
        torch.manual_seed(config.seed)
        self.model = build_model(config, self.task).to(self.device)
        self.parameters = count_parameters(self.model)
        self.data = self.task.training_data(self.misalignment, self.settings.batch_size, config.seed)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=self.settings.lr, weight_decay=self.settings.weight_decay, fused=True
        )
        self.step, self.seconds, self.loss_sum, self.loss_count = 0, 0.0, 0.0, 0
        self.stop_signal: int | None = None
        self.code: str | None = None

    # The loop ------------------------------------------------------------------------------------------------

    def fit(self, progress: bool, line: int = 0) -> None:
        """Train to the last step, with a bar on a line of the terminal. The folder must be locked."""
        validation = self.task.split("validation", self.misalignment)
        if self.step == 0:
            self._begin(validation)
        labels = self.run.labels
        bar = tqdm(
            total=self.settings.steps,
            initial=self.step,
            disable=not progress,
            desc=f"{labels['task']} {labels['model']} noise {labels['noise']:.2f} seed {labels['seed']}",
            unit="step",
            dynamic_ncols=True,
            position=line,
            leave=line == 0,
        )
        accuracy = math.nan
        self.model.train()
        began = time.perf_counter() - self.seconds
        with bar:
            while self.step < self.settings.steps:
                loss = self._train_step()
                if (
                    self.code is None
                ):  # after the first step: what is hashed is what was imported, and none waits for it
                    self.code = code_hash(self.config)
                self.loss_sum, self.loss_count = self.loss_sum + loss, self.loss_count + 1
                self.step += 1
                self.seconds = time.perf_counter() - began
                last = self.step == self.settings.steps
                if last or self.step % self.settings.evaluate_every == 0:
                    accuracy = self._evaluate(validation)
                if self.step in self.settings.keep_checkpoints:
                    self._save_weights(f"step-{self.step}")
                if last or self.step % self.settings.checkpoint_every == 0:
                    self._save_state()
                bar.update()
                if self.step % 10 == 0:
                    bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}", refresh=False)
                if self.stop_signal is not None and not last:
                    self._save_state()
                    raise Interrupted(
                        f"stopped at step {self.step} of {self.settings.steps}; "
                        f"the same command (without force=true) resumes {self.run.path}",
                        self.stop_signal,
                    )

    def _train_step(self) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate(self.step)
        batch = to_device(self.data.batch(self.step), self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            logits, _ = self.model(batch)
        loss = self.task.loss(logits, batch)
        value = loss.item()
        self._demand_finite(value, self.step + 1)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.grad_clip)
        self._demand_finite(norm.item(), self.step + 1, "norm of the gradient")
        self.optimiser.step()
        return value

    def _demand_finite(self, value: float, step: int | None = None, what: str = "loss") -> None:
        if not math.isfinite(value):
            raise UserError(
                f"the {what} is {value} at step {self.step if step is None else step} of {self.run.path}; stopped, "
                "what was saved before is kept; a smaller training.lr or training.grad_clip may help"
            )

    def _evaluate(self, validation: Batch) -> float:
        scores = self._score(validation)
        line = {
            "step": self.step,
            "seconds": round(self.seconds, 3),
            "split": "validation",
            **scores.as_dict(),
            "train_loss": self.loss_sum / max(1, self.loss_count),
        }
        self.loss_sum, self.loss_count = 0.0, 0
        try:
            with open(self.run.path / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"cannot write {self.run.path / 'metrics.jsonl'}: {error.strerror}") from error
        return scores.accuracy

    def _score(self, split: Batch) -> Scores:
        scores = self.task.score(self.model, split, self.device)
        self._demand_finite(scores.loss)
        return scores

    # What a run leaves ---------------------------------------------------------------------------------------

    def _begin(self, validation: Batch) -> None:
        # The validation split serves the recording before training: the test split is read once, at the end.
        with atomic(self.run.path / "config.yaml") as file:
            described = OmegaConf.masked_copy(self.config, [str(key) for key in self.config if key != "plan"])
            file.write(OmegaConf.to_yaml(described, resolve=True))
        (self.run.path / "metrics.jsonl").unlink(missing_ok=True)
        self._save_weights("initial")
        self._record("recording_initial", validation)
        if 0 in self.settings.keep_checkpoints:
            self._save_weights("step-0")
        self._evaluate(validation)

    def finish(self) -> dict[str, Any]:
        """Score the test split once and write what the run leaves; ``result.json`` last."""
        test = self.task.split("test", self.misalignment)
        scores = self._score(test)
        self._record("recording", test)
        self._save_weights("model")
        curve = self.run.metrics()
        reached = (line["step"] for line in curve if line["accuracy"] >= TARGET_ACCURACY)
        result = {
            "format": FORMAT,
            **self.run.labels,
            "kind": self.config.misalignment.kind,
            "metric": self.task.metric,
            "steps": self.settings.steps,
            "steps_to_0.9": next(reached, None),
            "test": scores.as_dict(),
            "validation": {key: curve[-1][key] for key in scores.as_dict() if key in curve[-1]},
            "train_loss": curve[-1]["train_loss"],
            "chance": self.task.chance(),
            "validation_chance": self.task.validation_chance(),
            **({"corpus": corpus} if (corpus := self.task.corpus()) else {}),
            "ceiling": self.task.ceiling(self.config.misalignment.kind, float(self.config.noise)),
            "parameters": self.parameters,
            "flops_per_step": self._flops(),
            "seconds": round(self.seconds, 3),
            "examples_per_second": round(self.settings.steps * self.settings.batch_size / self.seconds, 1),
            **describe(self.device),
            "code": self.code or code_hash(self.config),
            "per_example": scores.per_example,
        }
        write_json(self.run.path / "result.json", result)
        (self.run.path / "trainer.pt").unlink(missing_ok=True)
        return result

    def demand_same_corpus(self, recorded: dict[str, str] | None) -> None:
        """That the data a run was trained on are still the same; runs of older versions do not say."""
        if recorded and recorded["fingerprint"] != self.task.corpus().get("fingerprint"):
            raise UserError(
                f"{recorded['data']} has changed since {self.run.path} was trained on it; force=true trains anew"
            )

    def _flops(self) -> int:
        """Floating-point operations of a training step (forward and backward), matrix products counted."""
        batch = to_device(self.data.batch(0), self.device)
        with FlopCounterMode(display=False) as counter:
            logits, _ = self.model(batch, record=True)  # the literal path: its products are all counted
            self.task.loss(logits, batch).backward()
        self.optimiser.zero_grad(set_to_none=True)
        return counter.get_total_flops()

    def _record(self, name: str, split: Batch) -> None:
        save_recording(self.run, name, self.task.record(self.model, split, self.device))

    def _save_weights(self, name: str) -> None:
        # Shared tensors (one f for all layers) are stored under each of their names.
        weights = {key: value.detach().cpu().clone() for key, value in self.model.state_dict().items()}
        with atomic(self.run.path / f"{name}.safetensors", "wb") as file:
            file.write(to_safetensors(weights))

    def _save_state(self) -> None:
        state = {
            "format": FORMAT,
            "corpus": self.task.corpus(),
            "step": self.step,
            "seconds": self.seconds,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with atomic(self.run.path / "trainer.pt", "wb") as file:
            file.write(buffer.getvalue())

    def resume(self) -> bool:
        """Take up the saved state, if there is one; lines of the curve after it are dropped.

        Raises:
            UserError: if the state is damaged or another version's.
        """
        path = self.run.path / "trainer.pt"
        if not path.is_file():
            return False
        try:
            # weights_only: a file from a stranger cannot run code.
            state = torch.load(path, map_location=self.device, weights_only=True)
            version = state["format"]
            if version == FORMAT:
                self.model.load_state_dict(state["model"])
                self.optimiser.load_state_dict(state["optimiser"])
                torch.set_rng_state(state["rng"].cpu())
                if state["cuda_rng"] and torch.cuda.is_available():
                    torch.cuda.set_rng_state_all([rng.cpu() for rng in state["cuda_rng"]])
                self.step, self.seconds = state["step"], state["seconds"]
                self.loss_sum, self.loss_count = state["loss_sum"], state["loss_count"]
        except Exception as error:
            raise UserError(f"{path} is damaged; force=true trains the run from the start") from error
        self.demand_same_corpus(state.get("corpus"))
        if version != FORMAT:
            raise UserError(f"{path} has format {version}, this version reads {FORMAT}; force=true starts anew")
        kept = [line for line in self.run.metrics() if line["step"] <= self.step]
        with atomic(self.run.path / "metrics.jsonl") as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
        return True


def train(config: DictConfig, progress: bool = False, line: int = 0) -> tuple[Run, dict[str, Any] | None]:
    """Train a run, or resume it, or find it done.

    SIGINT and SIGTERM save the state and raise :class:`Interrupted`.

    Returns:
        the run, and its result; ``None`` in its place when another process is training it.

    Raises:
        UserError: for bad input; ``Interrupted`` when a signal came.
    """
    trainer = Trainer(config)
    run = trainer.run
    if run.done and not config.force:
        result = run.result()
        trainer.demand_same_corpus(result.get("corpus"))
        missing = [s for s in trainer.settings.keep_checkpoints if not (run.path / f"step-{s}.safetensors").exists()]
        hint = (
            f"without the checkpoints of steps {missing}; force=true trains it again"
            if missing
            else "force=true trains it again"
        )
        print(f"done already: {run.path} (test accuracy {result['test']['accuracy']:.4f}; {hint})")
        return run, result
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run.path / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process is training {run.path}; leaving it to that one")
        return run, None
    except OSError as error:
        raise UserError(f"results_dir={config.results_dir}: cannot write there ({error.strerror})") from error
    with lock:
        if run.done and not config.force:  # the other process finished between the look and the lock
            return run, run.result()
        if config.force:
            _clear(run)
        resumed = trainer.resume()
        print(
            f"{'resuming at step ' + str(trainer.step) if resumed else 'training'}: {run.path} "
            f"({trainer.parameters:,} parameters, {trainer.model.says()})"
        )
        with _catching_signals(trainer):
            trainer.fit(progress, line)
        result = trainer.finish()
        if trainer.stop_signal is not None:  # it came in the last step: the run is done, a sweep still ends
            raise Interrupted(f"stopped after the last step; {run.path} is done", trainer.stop_signal)
        return run, result


def _clear(run: Run) -> None:
    """Remove what a run left: its result first, so that it is never taken for done."""
    (run.path / "result.json").unlink(missing_ok=True)
    for entry in run.path.iterdir():
        if entry.name == ".lock":
            continue
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


class _catching_signals:
    """While training, SIGINT and SIGTERM ask the trainer to stop after its step; a second one ends it at once."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.previous = trainer, {}  # type: ignore[var-annotated]

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._stop)

    def _stop(self, number: int, frame: Any) -> None:
        self.trainer.stop_signal = number
        signal.signal(number, self.previous[number])

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def run(config: DictConfig) -> float | None:
    """The verb ``train``: returns the validation accuracy, which sweepers may maximise."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if not OmegaConf.select(config, "plan.runs", default=True):
        raise UserError("this experiment has no runs; indattn reproduce makes its tables and figures")
    sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    jobs, line = 1, 0
    if sweep:
        jobs = HydraConfig.get().launcher.get("n_jobs") or 1
        jobs = jobs if jobs > 0 else 10**6  # all cores: one thread each
        line = HydraConfig.get().job.num % jobs
    set_threads(config.threads, jobs)
    if config.progress not in ("auto", True, False):
        raise UserError(f"progress={config.progress}: must be auto, true or false")
    progress = sys.stderr.isatty() and jobs == 1 if config.progress == "auto" else config.progress
    began = time.time()
    finished, result = train(config, progress, line)
    if result is None:
        return None
    if (finished.path / "result.json").stat().st_mtime < began:  # it was done before, and train said so
        return result["validation"]["accuracy"]
    print(f"{build_task(config).says(result)}, {result['seconds']:.0f} s: {finished.path}")
    if config.figures:
        from indattn.plot import run_figures

        run_figures(finished)
    return result["validation"]["accuracy"]
