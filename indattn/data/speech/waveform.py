"""Samples whose tempo follows a map of times: what drift does to frames, done to what they are made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from indattn.data.speech.features import RATE
from indattn.errors import UserError

__all__ = ["TOLERANCE", "drifted"]

TOLERANCE = 64
"""Samples (4 ms) by which a window may be moved so that it goes on where the last one ended."""

HOP, WINDOW = 96, 384


def drifted(
    samples: NDArray[np.int16], knots: NDArray[np.floating], lead_in: NDArray[np.int16] | None = None
) -> NDArray[np.int16]:
    """Other speech, then a recording with its tempo changed piece by piece, its pitch kept.

    Windows are overlapped and added where the waveforms are alike (WSOLA, Verhelst and Roelands, ICASSP 1993), by
    ``libtsm``. With tempos of 0.8 to 1.25 what is at a source time is within 5 ms of where the map puts it, half of it
    within 2 ms; a click of half a millisecond may fall between two windows (1 in 75).

    Args:
        samples: ``(samples,)`` at 16 kHz.
        knots: ``(knots, 2)`` seconds in the source and in the result behind the lead-in, straight lines between;
            from ``(0, 0)``, both ascending, to at most the end of the source.
        lead_in: ``(lead-in samples,)`` at 16 kHz that come first.

    Returns:
        ``(lead-in samples + 16000 * last knot's result, rounded,)``.

    Raises:
        ValueError: if the knots are no such map.
        UserError: if ``libtsm`` is not installed.
    """
    points = np.rint(np.asarray(knots, float) * RATE).astype(np.int64)
    if len(points) < 2 or points[0].any() or (np.diff(points, axis=0) <= 0).any() or points[-1, 0] > len(samples):
        raise ValueError("knots: not (0, 0) and then ascending times within the recording")
    before = np.empty(0, np.int16) if lead_in is None else lead_in
    if (points[:, 0] == points[:, 1]).all():
        return np.concatenate([before, samples[: points[-1, 0]]])
    try:
        import libtsm
    except ModuleNotFoundError as error:
        raise UserError("drift of samples: pip install 'indattn[aligners]' brings libtsm") from error
    length = points[-1, 1]
    points[-1] -= 1  # it takes numbers of samples, not edges
    warped = libtsm.wsola_tsm(samples.astype(float), points, syn_hop=HOP, win_length=WINDOW, win_beta=2, tol=TOLERANCE)
    limits = np.iinfo(np.int16)
    return np.concatenate([before, np.rint(warped[:length, 0]).clip(limits.min, limits.max).astype(np.int16)])
