"""Log-mel features of speech, 10 ms a frame, in one byte a band."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indattn.errors import UserError

__all__ = ["BANDS", "FRAME", "RATE", "decibels", "log_mel"]

RATE = 16_000
"""Samples a second of everything that features are made of."""

FRAME = 0.010
"""Seconds from a frame to the next. Frame k is of the time from ``k * FRAME`` to ``(k + 1) * FRAME``."""

BANDS = 80
WINDOW = 0.025
FLOOR = -70.0
STEP = 0.5


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Power in 80 mel bands, 20 Hz to 8 kHz, in steps of half a decibel: Kaldi's filter bank (``kaldi-native-fbank``).

    Windows of 25 ms stand around the middle of their frame; there is no dither: the same samples give the same codes.

    Args:
        samples: ``(samples,)`` at 16 kHz, full scale at 1.

    Returns:
        ``(frames, 80)``, a frame for every 160 samples, rounded; code 0 is -70 dB or less, 255 is 57.5 dB or more.

    Raises:
        UserError: if ``kaldi-native-fbank`` is not installed.
    """
    try:
        import kaldi_native_fbank
    except ModuleNotFoundError as error:
        raise UserError("log-mel features: pip install 'indattn[speech]' brings kaldi-native-fbank") from error
    bank = kaldi_native_fbank.OnlineFbank(_options())
    bank.accept_waveform(RATE, np.ascontiguousarray(samples, np.float32))
    bank.input_finished()
    frames = bank.num_frames_ready
    if not frames:
        return np.empty((0, BANDS), np.uint8)
    logs = np.stack([bank.get_frame(k) for k in range(frames)])
    codes = np.rint((logs * (10 / np.log(10)) - FLOOR) / STEP)
    return codes.clip(0, 255).astype(np.uint8)


@functools.cache
def _options() -> Any:
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = RATE
    options.frame_opts.frame_shift_ms = 1000 * FRAME
    options.frame_opts.frame_length_ms = 1000 * WINDOW
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = BANDS
    return options


def decibels(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the codes stand for, in dB."""
    return codes.astype(np.float32) * np.float32(STEP) + np.float32(FLOOR)
