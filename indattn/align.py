"""`indattn align`: when each word of a transcript is said in a recording."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from indattn.errors import UserError, nearest
from indattn.tables import check_format, print_table

__all__ = ["run"]

PICTURES = (".png", ".pdf", ".svg")


def run(config: DictConfig) -> None:
    """The verb ``align``.

    Raises:
        UserError: for anything wrong in the command line or the files, or if no word is found.
    """
    from indattn.alignment.outputs import COLUMNS, WRITERS, rows, write

    check_format(config.format)
    audio, transcript = _two(config.file)
    outputs = [_output(path, WRITERS, "out", (audio, transcript)) for path in _listed(config.out)]
    plot = None if config.plot is None else _output(config.plot, PICTURES, "plot", (audio, transcript))
    skip, language, model = _number(config.skip), str(config.language), str(config.where.model)

    from indattn.alignment.transcript import pronounced, read_transcript
    from indattn.data.speech.audio import read_audio
    from indattn.data.speech.features import RATE

    text = read_transcript(transcript)
    phones = pronounced(text.spoken, language, str(transcript), text.places)
    samples = read_audio(audio)

    from indattn.alignment.align import align
    from indattn.environment import set_threads

    set_threads(config.threads)
    words = align(samples, text.words, model=model, phones=phones, skip=skip, name=str(audio))
    found = sum(word.said for word in words)
    if not found:
        raise UserError(
            f"{audio}: none of the {len(words)} words of {transcript} is found; is it what is said there, in "
            f"language={language}? A smaller skip than {skip:g} keeps words that are less sure"
        )
    seconds = len(samples) / RATE
    for path in outputs:
        write(path, words, seconds, {"audio": str(audio), "transcript": str(transcript), "language": language})
    if plot is not None:
        from indattn.alignment.picture import draw

        draw(plot, samples, words, f"{audio.name}, {found} of {len(words)} words found")
    if outputs:
        sure = sum(word.confidence for word in words if word.said) / found
        print(f"{found} of {len(words)} words found in {seconds:.2f} s, mean confidence {sure:.2f}")
    else:
        title = f"{audio}: {found} of {len(words)} words found in {seconds:.2f} s"
        print_table(rows(words), COLUMNS, config.format, title=title)
    for path in [*outputs, *([plot] if plot else [])]:
        print(path, file=sys.stdout if outputs or config.format == "table" else sys.stderr)


def _two(files: Any) -> tuple[Path, Path]:
    given = [str(path) for path in _listed(files)]
    if len(given) != 2:
        files_given = "file" if len(given) == 1 else "files"
        have = f"{len(given)} {files_given} ({', '.join(given)})" if given else "no file"
        raise UserError(f"{have}: must be a recording and its transcript: indattn align speech.wav speech.txt")
    return Path(given[0]), Path(given[1])


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, ListConfig) else [] if value is None else [value]


def _output(value: Any, known: Any, key: str, inputs: tuple[Path, Path]) -> Path:
    """A file to write, if its suffix says what."""
    path, suffixes = Path(str(value)), tuple(known)
    if path.suffix.casefold() not in map(str.casefold, suffixes):
        close = nearest(path.suffix, suffixes, 0)
        raise UserError(f"{key}={value}: suffix {path.suffix or 'missing'}; must be {', '.join(suffixes)}{close}")
    if any(path.resolve() == other.resolve() for other in inputs):
        raise UserError(f"{key}={value}: is what is read; give another name")
    return path


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"skip={value}: must be a number, about -20 to 5")
    return float(value)
