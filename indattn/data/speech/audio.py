"""Sound files as samples: mono, 16 kHz."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indattn.data.speech.features import RATE
from indattn.errors import UserError

__all__ = ["SILENCE", "SOUNDS", "is_silent", "read_audio"]

SOUNDS = (".wav", ".flac", ".ogg", ".mp3")
"""Files of a folder that are recordings, in small or capital letters."""

SILENCE = -60.0
"""Power that a recording must have in some tenth of a second, in dB of full scale, or else it is silent."""

BLOCK = 1 << 16
SHORTFALL = 0.1  # seconds; the length an MP3 says it has can be off by some frames of 26 ms

UNKNOWN, CODING = 1, 18  # errors of libsndfile


def read_audio(path: str | Path) -> NDArray[np.float32]:
    """A recording at 16 kHz, its channels averaged: WAV, NIST SPHERE, FLAC, Ogg (Vorbis, Opus) or MP3.

    ``libsndfile`` reads it, by its content and not by its name, and ``soxr`` resamples it, block by block: the
    memory it takes is about twice what is returned, whatever rate and channels the file has.

    Returns:
        ``(samples,)``, full scale at 1, 16,000 for each second.

    Raises:
        UserError: if there is no such file, it is no sound file, damaged, cut off or empty, samples are no numbers, or
            ``soundfile`` or ``soxr`` is not installed. The message names the file.
    """
    try:
        import soundfile
        import soxr
    except (ImportError, OSError) as error:  # OSError: a soundfile without its libsndfile
        raise UserError("sound files: pip install 'indattn[speech]' brings soundfile and soxr") from error
    path = Path(path)
    try:
        if not path.stat().st_size:
            raise UserError(f"{path}: is empty")
        with path.open("rb") as opened, soundfile.SoundFile(opened) as file:
            rate, said, log = file.samplerate, file.frames, file.extra_info
            resampler = soxr.ResampleStream(rate, RATE, 1, dtype="float32")
            blocks, count, more = [], 0, True
            while more:
                block = file.read(BLOCK, dtype="float32", always_2d=True).mean(axis=1)
                if not np.isfinite(block).all():
                    place = count + int(np.isfinite(block).argmin())
                    raise UserError(f"{path}: sample {place} ({place / rate:.3f} s) is no number")
                more = len(block) == BLOCK
                count += len(block)
                blocks.append(resampler.resample_chunk(block, last=not more))
    except OSError as error:
        raise UserError(f"{path}: {'no such file' if not path.exists() else error.strerror or error}") from error
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path}: {_reason(path, error.code)}") from error
    if count < said - SHORTFALL * rate or _cut_off(log):
        raise UserError(f"{path}: damaged: it ends after {count / rate:.2f} s, before what its header says is there")
    samples = np.concatenate(blocks)
    if not len(samples):
        raise UserError(f"{path}: has no samples")
    return samples


def is_silent(samples: NDArray[np.float32]) -> bool:
    """Whether no tenth of a second has a power of :data:`SILENCE`: there is no speech in it.

    Args:
        samples: ``(samples,)`` at 16 kHz, full scale at 1. A constant is taken off first.
    """
    if not len(samples):
        return True
    starts = np.arange(0, len(samples), RATE // 10)
    squares = np.square(samples - samples.mean(dtype=np.float64))
    powers = np.add.reduceat(squares, starts) / np.diff(starts, append=len(samples))
    return bool(powers.max() < 10 ** (SILENCE / 10))


def _reason(path: Path, code: int) -> str:
    """What an error of libsndfile is to the one whose file it is."""
    if code == UNKNOWN:
        return "no sound file; WAV, NIST SPHERE, FLAC, Ogg and MP3 can be read"
    if code == CODING:
        with path.open("rb") as file:
            sphere = file.read(7) == b"NIST_1A"
        compressed = "NIST SPHERE, compressed; sph2pipe -f wav makes WAV of it"
        return compressed if sphere else "an encoding that is not known; 16-bit WAV is"
    return "damaged sound file"


def _cut_off(log: str) -> bool:
    """Whether a WAV or Ogg file ends early, by libsndfile's log. A length of all ones is that of a stream."""
    sizes = re.search(r"^data : (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    if sizes is None:
        return "Ogg : File ended unexpectedly" in log
    return int(sizes[2]) < int(sizes[1]) < 2**31 - 1
