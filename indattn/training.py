"""The training loop and `indattn train`. It knows no task and no model by name."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from typing import Any

import torch
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save as to_safetensors
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from indattn.build import build_misalignment, build_model, build_task, model_class
from indattn.checkpoints import load_state, remove_states, save_state
from indattn.config import TrainingConfig, as_floats, check_noise, check_seed, section
from indattn.distributed import ALONE, Workers, every_kth_row, joined
from indattn.environment import describe, pick_device, set_threads
from indattn.errors import Interrupted, UserError, under_torchrun
from indattn.misalignment import Batch
from indattn.models.matching import count_parameters
from indattn.provenance import code_hash
from indattn.recording import of_heads, save_recording
from indattn.runs import FORMAT, Run, atomic, write_json
from indattn.signals import catching_signals, preemption_signal, requeue
from indattn.tasks.base import Scores, to_device

__all__ = ["Trainer", "run", "train"]

TARGET_ACCURACY = 0.9


class Trainer:
    """Trains one run in its folder, from the start or from its saved state.

    Args:
        config: a complete configuration.
        workers: the processes that train it together.

    Raises:
        UserError: for anything wrong in the configuration, before anything is written.
    """

    def __init__(self, config: DictConfig, workers: Workers = ALONE) -> None:
        self.config, self.workers = config, workers
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
        self.device = pick_device(config.device, workers.local_rank if workers.count > 1 else None)
        if self.device.index is not None:
            torch.cuda.set_device(self.device)
        self.run = Run.of(config)
        torch.manual_seed(config.seed)
        self.model = build_model(config, self.task).to(self.device)
        self.parameters = count_parameters(self.model)
        self.data = self.task.training_data(self.misalignment, self.settings.batch_size, config.seed)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=self.settings.lr, weight_decay=self.settings.weight_decay, fused=True
        )
        self.step, self.seconds, self.loss_sum, self.loss_count = 0, 0.0, 0.0, 0
        self.code: str | None = None
        self.stop_signal: int | None = None  # one that this process got
        self.stop: int | None = None  # the one after which all stop together
        self._check_parts()

    def _check_parts(self) -> None:
        """Whether the batch can be split as asked."""
        if self.parts == 1:
            return
        if self.parts > self.settings.batch_size:
            raise UserError(
                f"training.batch_size={self.settings.batch_size}: too few examples for "
                f"training.accumulate={self.settings.accumulate} parts in each of {self.workers.count} process(es)"
            )
        for key, value in self.config.model.items():
            if str(key).endswith("dropout") and value:
                raise UserError(
                    f"model.{key}={value}: it would fall differently on the parts of a batch; train in one process, "
                    f"with training.accumulate=1, or without it"
                )
        self.task.counts(self.data.batch(0))

    @property
    def parts(self) -> int:
        """Into how many parts a batch is split, over processes and one after another."""
        return self.workers.count * self.settings.accumulate

    # The loop ------------------------------------------------------------------------------------------------

    def fit(self, progress: bool, line: int = 0) -> None:
        """Train to the last step, with a bar on a line of the terminal. The folder must be locked."""
        validation = self.task.split("validation", self.misalignment) if self.workers.first else {}
        if self.step == 0 and self.workers.first:
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
                if self.code is None:  # what was imported is on the disk still, and no first step waits for it
                    self.code = code_hash(self.config)
                self.loss_sum, self.loss_count = self.loss_sum + loss, self.loss_count + 1
                self.step += 1
                self.seconds = time.perf_counter() - began
                last = self.step == self.settings.steps
                if self.workers.first:
                    if last or self.step % self.settings.evaluate_every == 0:
                        accuracy = self._evaluate(validation)
                    if self.step in self.settings.keep_checkpoints:
                        self._save_weights(f"step-{self.step}")
                    if last or self.step % self.settings.checkpoint_every == 0:
                        self._save_state()
                bar.update()
                if self.step % 10 == 0:
                    bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}", refresh=False)
                stop = self.stop_signal if self.workers.count == 1 else self.stop
                if stop is not None and not last:
                    if self.workers.first:
                        self._save_state()
                    raise Interrupted(
                        f"stopped at step {self.step} of {self.settings.steps}; "
                        f"the same command (without force=true) resumes {self.run.path}",
                        stop,
                    )

    def _train_step(self) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        value = self._gradients()
        self._demand_finite(value, self.step + 1)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.grad_clip)
        self._demand_finite(norm.item(), self.step + 1, "norm of the gradient")
        self.optimiser.step()
        return value

    def _gradients(self) -> float:
        """Make the gradient of the whole batch, whichever process computes which part of it; gives its loss."""
        batch = self.data.batch(self.step)
        whole = self.task.counts(batch) if self.parts > 1 else None
        total = torch.zeros((), device=self.device)
        for number in range(self.workers.rank, self.parts, self.workers.count):
            part = to_device(every_kth_row(batch, number, self.parts), self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
                logits, _ = self.model(part)
            loss = self.task.loss(logits, part, whole)
            loss.backward()
            total += loss.detach()
        if self.workers.count > 1:
            # The signals go with the gradients: each process hears of them at the same step.
            stop = total.new_tensor([float(self.stop_signal or 0), float(self.stop_signal is not None)])
            grads = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            self.workers.add([*grads, total, stop])
            number, heard = stop.tolist()
            self.stop = round(number / heard) if heard else None
        return total.item()

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
        recorded = self._record("recording", test)
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
            **describe(self.device, self.workers.count),
            "code": self.code or code_hash(self.config),
            **of_heads(recorded),
            "per_example": scores.per_example,
        }
        write_json(self.run.path / "result.json", result)
        remove_states(self.run)
        return result

    def demand_same_corpus(self, recorded: dict[str, str] | None) -> None:
        """That the data a run was trained on are still the same; runs of older versions do not say."""
        if recorded and recorded["fingerprint"] != self.task.corpus().get("fingerprint"):
            raise UserError(
                f"{recorded['data']} has changed since {self.run.path} was trained on it; force=true trains anew"
            )

    def _flops(self) -> int:
        """Floating-point operations of a training step (forward and backward), matrix products counted."""
        batch = self.data.batch(0)
        # Fused kernels are not counted on every device: products are those of the literal paths.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            for number in range(self.parts):  # no more at a time than in training: the rest may not fit
                part = to_device(every_kth_row(batch, number, self.parts), self.device)
                logits, _ = self.model(part, record=True)
                self.task.loss(logits, part).backward()
        self.optimiser.zero_grad(set_to_none=True)
        return counter.get_total_flops()

    def _record(self, name: str, split: Batch) -> dict[str, Any]:
        recorded = self.task.record(self.model, split, self.device)
        save_recording(self.run, name, recorded)
        return recorded

    def _save_weights(self, name: str) -> None:
        # Shared tensors (one f for all layers) are stored under each of their names.
        weights = {key: value.detach().cpu().clone() for key, value in self.model.state_dict().items()}
        with atomic(self.run.path / f"{name}.safetensors", "wb") as file:
            file.write(to_safetensors(weights))

    def _save_state(self) -> None:
        state = {
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
        save_state(self.run, state)

    def resume(self) -> bool:
        """Take up the saved state, if there is one; lines of the curve after it are dropped.

        Where several processes train, all take up what the first one reads.

        Raises:
            UserError: if the state is damaged or another version's.
        """
        state = load_state(self.run, self._take_up) if self.workers.first else None
        if state is not None:
            self.demand_same_corpus(state.get("corpus"))
            kept = [line for line in self.run.metrics() if line["step"] <= self.step]
            with atomic(self.run.path / "metrics.jsonl") as file:
                file.writelines(json.dumps(line) + "\n" for line in kept)
        state = self.workers.share(state)
        if state is not None and not self.workers.first:
            self._take_up(state)
        return state is not None

    def _take_up(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.loss_sum, self.loss_count = state["loss_sum"], state["loss_count"]


def train(config: DictConfig, progress: bool = False, line: int = 0) -> tuple[Run, dict[str, Any] | None]:
    """Train a run, or resume it, or find it done; together with the other processes that torchrun started.

    SIGINT and SIGTERM save the state and raise :class:`Interrupted`. In a job of submitit SIGTERM and submitit's own
    signal save it and put the job back in the queue.

    Returns:
        the run, and its result; ``None`` in its place when another process is training it, and in all processes but
        the first.

    Raises:
        UserError: for bad input; ``Interrupted`` when a signal came.
    """
    try:
        with joined() as workers:
            trainer = workers.agree(lambda: Trainer(config, workers))
            if workers.first:
                return trainer.run, _lead(trainer, progress, line)
            if workers.share(False):
                trainer.resume()
                with catching_signals(trainer):
                    trainer.fit(progress=False)
            return trainer.run, None
    except Interrupted as stop:
        requeue(stop)
        raise


def _lead(trainer: Trainer, progress: bool, line: int) -> dict[str, Any] | None:
    """What the first process does: it decides whether there is anything to train, and keeps the run's folder."""
    run, config, workers = trainer.run, trainer.config, trainer.workers
    if run.done and not config.force:
        workers.share(False)
        result = run.result()
        trainer.demand_same_corpus(result.get("corpus"))
        missing = [s for s in trainer.settings.keep_checkpoints if not (run.path / f"step-{s}.safetensors").exists()]
        hint = (
            f"without the checkpoints of steps {missing}; force=true trains it again"
            if missing
            else "force=true trains it again"
        )
        print(f"done already: {run.path} (test accuracy {result['test']['accuracy']:.4f}; {hint})")
        return result
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run.path / ".lock").acquire(timeout=0)
    except Timeout:
        workers.share(False)
        print(f"another process is training {run.path}; leaving it to that one")
        return None
    except OSError as error:
        raise UserError(f"results_dir={config.results_dir}: cannot write there ({error.strerror})") from error
    with lock:
        unneeded = run.done and not config.force  # another process finished between the look and the lock
        workers.share(not unneeded)
        if unneeded:
            return run.result()
        if config.force:
            _clear(run)
        resumed = trainer.resume()
        together = f", {workers.count} processes" if workers.count > 1 else ""
        print(
            f"{'resuming at step ' + str(trainer.step) if resumed else 'training'}: {run.path} "
            f"({trainer.parameters:,} parameters, {trainer.model.says()}{together})"
        )
        with catching_signals(trainer):
            trainer.fit(progress, line)
        result = trainer.finish()
        # A signal of the last step: the run is done and a sweep still ends, but a job of one run needs no second turn.
        if trainer.stop_signal is not None and preemption_signal() is None:
            raise Interrupted(f"stopped after the last step; {run.path} is done", trainer.stop_signal)
        return result


def _clear(run: Run) -> None:
    """Remove what a run left: its result first, so that it is never taken for done."""
    (run.path / "result.json").unlink(missing_ok=True)
    for entry in run.path.iterdir():
        if entry.name == ".lock":
            continue
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def run(config: DictConfig) -> float | None:
    """The verb ``train``: returns the validation accuracy, which sweepers may maximise."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if not OmegaConf.select(config, "plan.runs", default=True):
        raise UserError("this experiment has no runs; indattn reproduce makes its tables and figures")
    sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    jobs, line = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if under_torchrun() else 1, 0
    if sweep and under_torchrun():
        raise UserError("torchrun trains one run at a time: a sweep takes a launcher in its place (docs/clusters.md)")
    if sweep:
        jobs = HydraConfig.get().launcher.get("n_jobs") or 1
        jobs = jobs if jobs > 0 else 10**6  # all cores: one thread each
        line = HydraConfig.get().job.num % jobs
    set_threads(config.threads, jobs)
    if config.progress not in ("auto", True, False):
        raise UserError(f"progress={config.progress}: must be auto, true or false")
    progress = sys.stderr.isatty() and (jobs == 1 or not sweep) if config.progress == "auto" else config.progress
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
