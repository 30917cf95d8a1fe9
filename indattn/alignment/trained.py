"""A trained model of pointers, and its scores of the boundaries of any words in any stretch of a recording."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor

from indattn.build import build_model
from indattn.data.speech.features import BANDS
from indattn.data.speech.phones import phone_codes
from indattn.errors import UserError
from indattn.evaluation import load_weights
from indattn.models.alignment import CELL, AlignmentModel
from indattn.runs import Run, open_run
from indattn.tasks.speech_text_alignment import SpeechTextAlignment

__all__ = ["REFERENCE", "BoundaryScores", "load_aligner"]

REFERENCE = Path(__file__).resolve().parent.parent / "data" / "speech" / "reference"
"""The model that comes with the package: ``config.yaml`` and ``model.safetensors``, of one run."""

MADE_BY = "python scripts/train_reference_aligner.py"

CROWDED = 1.25
"""Words of so many times the phones that a window is likely to have are scored in several parts."""


class _Side(SpeechTextAlignment):
    """What a model asks of its task, without the corpus."""

    bands = BANDS


def load_aligner(model: str | Path = "reference") -> AlignmentModel:
    """The model of a run, with the weights it ended with, on the CPU.

    Args:
        model: the folder of a finished run of ``speech_text_alignment``, of formulation ``pointer``; or ``reference``,
            the one that comes with the package.

    Raises:
        UserError: if it is no such run, unfinished or damaged, or the package has no reference model.
    """
    if str(model) == "reference":
        if not (REFERENCE / "model.safetensors").is_file():
            raise UserError(f"model=reference: not in this copy of the package; {MADE_BY} trains it")
        run = Run(REFERENCE)
    else:
        run = open_run(model)
    config = run.config()
    task, form = (OmegaConf.select(config, f"task.{key}") for key in ("name", "formulation"))
    if task != SpeechTextAlignment.name:
        raise UserError(f"model={model}: a run of task {task}; must be of {SpeechTextAlignment.name}")
    if form != "pointer":
        raise UserError(f"model={model}: a run of task.formulation={form}; must be of pointer")
    if run.path != REFERENCE:
        run.result()  # that it is finished
    config.model.backend, config.device = "auto", "cpu"
    made = build_model(config, _Side(formulation=form))
    load_weights(made, run, "model.safetensors")
    assert isinstance(made, AlignmentModel)
    return made.eval()


class BoundaryScores:
    """Scores of the boundaries of words in windows of a recording, as decoders take them.

    A boundary's score at a frame is the logarithm of how much more probable the model holds it to be there than nowhere
    in the window. So 0 is the score of a word that is not said.

    Args:
        model: of :func:`load_aligner`.
        frames: ``(frames, 80)`` uint8 log-mel codes of the recording.
        phones: of each word.
        frames_per_phone: how many there are likely to be.
    """

    def __init__(
        self,
        model: AlignmentModel,
        frames: NDArray[np.uint8],
        phones: Sequence[Sequence[str]],
        frames_per_phone: float,
    ) -> None:
        self.model, self.frames, self.frames_per_phone = model, frames, frames_per_phone
        self.lengths = np.array([len(one) for one in phones], np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.tokens = torch.from_numpy(phone_codes([phone for one in phones for phone in one]))

    def __call__(self, first_frame: int, last_frame: int, first_word: int, last_word: int) -> NDArray[np.float32]:
        """``(boundaries, frames)`` of some words in some frames, the last ones not included.

        Words of many more phones than are likely to be said there are scored part by part, each part as if it were the
        transcript of the window.
        """
        likely = (last_frame - first_frame) / self.frames_per_phone
        offered = self.starts[last_word] - self.starts[first_word]
        parts = max(1, int(np.ceil(offered / (CROWDED * likely))))
        aims = self.starts[first_word] + np.arange(1, parts) * offered / parts
        cuts = np.unique([first_word, *np.searchsorted(self.starts, aims), last_word])
        starts, ends = self._scores(self.frames[first_frame:last_frame], cuts)
        # A word's chain: the starts of its tokens, then the end of the last.
        lengths = self.lengths[first_word:last_word]
        row = np.arange(len(starts)) + np.repeat(np.arange(len(lengths)), lengths)
        chain = np.empty((len(starts) + len(lengths), starts.shape[1]), np.float32)
        last = np.cumsum(lengths) - 1
        chain[row], chain[row[last] + 1] = starts, ends[last]
        return chain

    def _scores(self, frames: NDArray[np.uint8], cuts: NDArray[np.int64]) -> tuple[NDArray[np.float32], ...]:
        """``(tokens, frames)`` of starts and ends, of words ``cuts[k]`` to ``cuts[k + 1]`` for each k."""
        counts = torch.from_numpy(np.diff(self.starts[cuts]))
        there = torch.arange(int(counts.max())) < counts.unsqueeze(1)
        span, lengths = slice(*self.starts[cuts[[0, -1]]]), self.lengths[cuts[0] : cuts[-1]]
        ends = np.cumsum(lengths)
        edges = np.zeros((2, len(self.tokens[span])), bool)
        edges[0, ends - lengths] = edges[1, ends - 1] = True
        tokens = torch.zeros(*there.shape, 3, dtype=torch.uint8)
        first, last = torch.zeros(2, *there.shape, dtype=torch.bool)
        tokens[there] = self.tokens[span]
        first[there], last[there] = torch.from_numpy(edges)
        padded = F.pad(torch.from_numpy(frames), (0, 0, 0, -len(frames) % CELL))
        batch = {
            "frames": padded.expand(len(counts), -1, -1),
            "lengths": torch.full((len(counts),), len(frames)),
            "tokens": tokens,
            "token_there": there,
            "first": first,
            "last": last,
        }
        with torch.inference_mode():
            aligned, _ = self.model(batch)
        assert aligned.starts is not None
        assert aligned.ends is not None
        return tuple(_against_none(scores, there, len(frames)) for scores in (aligned.starts, aligned.ends))


def _against_none(scores: Tensor, there: Tensor, frames: int) -> NDArray[np.float32]:
    chosen = scores[there]
    return (chosen[:, :frames] - chosen[:, -1:]).numpy()
