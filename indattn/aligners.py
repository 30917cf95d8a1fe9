"""`indattn aligners`: where aligners that are not among the models put the words that these are tested on."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from omegaconf import DictConfig, ListConfig

from indattn.alignment.baselines import ALIGNERS, align_all, aligner
from indattn.alignment.example import Example
from indattn.alignment.scores import METRICS, word_errors
from indattn.config import check_noise, construct, load_option
from indattn.data.speech.corpus import SpeechCorpus
from indattn.data.speech.drift import KNOTS, Examples
from indattn.data.speech.espeak import voices
from indattn.data.speech.features import FRAME, RATE
from indattn.data.speech.waveform import drifted
from indattn.environment import processors
from indattn.errors import UserError, nearest
from indattn.misalignment import Drift
from indattn.runs import atomic
from indattn.tables import check_format, print_table
from indattn.tasks.base import batch_generator
from indattn.tasks.speech_text_alignment import SpeechTextAlignment

__all__ = ["as_examples", "run"]

SHOWN = ["start_median_ms", "start_mean_ms", "start_within_50", "not_placed", "seconds"]


def as_examples(corpus: SpeechCorpus, made: Examples, samples: bool) -> tuple[list[Example], list[NDArray[np.float64]]]:
    """Displaced utterances as aligners take them, and the true times of their words in seconds.

    Args:
        corpus: the corpus.
        made: what was drawn of it.
        samples: whether to make the waveforms too.

    Raises:
        UserError: if the corpus keeps no samples of an utterance.
    """
    examples, true = [], []
    for k, row in enumerate(made.rows):
        words = made.words[k][made.words[k] >= 0]
        spans = [slice(*corpus.segment_tokens[word : word + 2]) for word in words]
        examples.append(
            Example(
                name=str(corpus.names[row]),
                frames=made.frames[k, : made.lengths[k]],
                words=tuple(corpus.segments[words].tolist()),
                phones=tuple(tuple(corpus.phones[span].tolist()) for span in spans),
                samples=_waveform(corpus, made, k) if samples else None,
                language=language(str(corpus.voices[row])),
            )
        )
        true.append(FRAME * made.word_spans[k, : len(words)].astype(float))
    return examples, true


def language(voice: str) -> str:
    """The language of a voice: itself, if it is called as one of espeak-ng's languages is, or else English."""
    return voice if voice in voices().languages else "en-us"


def _waveform(corpus: SpeechCorpus, made: Examples, k: int) -> NDArray[np.int16]:
    """What drift does to an example's frames, done to its samples."""
    row, before = made.rows[k], made.before[k]
    own, other = (corpus.samples[slice(*corpus.sample_starts[one : one + 2])] for one in (row, before))
    if not len(own):
        raise UserError(f"{corpus.name}: keeps no samples of {corpus.names[row]}")
    frames = corpus.frame_starts[row + 1] - corpus.frame_starts[row]
    source = np.arange(KNOTS + 1) * frames * FRAME / KNOTS
    knots = np.stack([source.clip(max=len(own) / RATE), FRAME * (made.knots[k] - made.lead[k])], 1)
    lead = round(int(made.lead[k]) * FRAME * RATE)
    return drifted(own, knots, other[len(other) - lead :])


def run(config: DictConfig) -> None:
    """The verb ``aligners``."""
    check_format(config.format)
    names = _listed(config.aligner) or list(ALIGNERS)
    for name in names:
        if name not in ALIGNERS:
            raise UserError(f"{name}: no such aligner{nearest(str(name), ALIGNERS)}")
    noises = [check_noise(noise) for noise in _listed(config.noise)]
    progress = sys.stderr.isatty() if config.progress == "auto" else bool(config.progress)
    task = SpeechTextAlignment(data=str(config.data))
    rows = task.speech.rows("test")
    if not len(rows):
        raise UserError(f"data={config.data}: no utterance in split 'test'")
    speech = task.speech
    trained = np.repeat(speech.splits, np.diff(speech.token_starts)) == "train"
    knows = bool((trained & ~np.isnan(speech.token_times).any(1)).any())
    learned_from = speech if knows else SpeechTextAlignment().speech  # durations of phones
    aligners = {name: aligner(name, learned_from) for name in names}
    table: list[dict[str, Any]] = []
    for noise in noises:
        drift = construct(config.misalignment, Drift, "misalignment", {"noise": noise})
        made = task.draw(rows, drift, batch_generator("test", int(config.test_seed)))
        for name, align in aligners.items():
            examples, true = as_examples(task.speech, made, samples=name == "pocketsphinx")
            began = time.perf_counter()
            found = align_all(align, examples, processors(), progress)
            seconds = (time.perf_counter() - began) / len(examples)
            errors = word_errors(true, found, (FRAME * made.lengths).tolist())
            line: dict[str, Any] = {"data": Path(str(config.data)).name, "baseline": name, "noise": noise}
            for metric in METRICS:
                line[metric] = errors.metric(metric)
                line[f"{metric}_low"], line[f"{metric}_high"] = errors.interval(metric)
            table.append({**line, "utterances": len(examples), "seconds": seconds})
    usual = load_option("misalignment", Drift.kind)
    if config.test_seed == 0 and all(config.misalignment[key] == value for key, value in usual.items()):
        _keep(table, Path(config.results_dir) / "tables" / "alignment-baselines.csv")
    else:
        print("of another test than runs are scored by at the end: shown, and not kept", file=sys.stderr)
    print_table(table, ["data", "baseline", "noise", *SHOWN], config.format, title="Word starts; seconds an utterance")


def _keep(table: list[dict[str, Any]], path: Path) -> None:
    """Write the lines, in place of those of the same corpus, aligner and level that are there."""
    lines = pd.DataFrame(table)
    keys = ["data", "baseline", "noise"]
    if path.is_file():
        lines = pd.concat([pd.read_csv(path), lines]).drop_duplicates(keys, keep="last")
    with atomic(path) as file:
        lines.sort_values(keys).to_csv(file, index=False, float_format="%.6g")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, ListConfig) else [] if value is None else [value]
