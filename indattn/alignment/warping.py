"""The method of aeneas (A. Pettarin, 2015): speak the transcript, match the two recordings, carry the times over.

espeak-ng says the words (``indattn[speech]``), dynamic time warping (Sakoe and Chiba, 1978; ``dtaidistance``,
``indattn[aligners]``) matches its frames and those of the recording. Frames are compared by the cosine of the angle
between their cepstra: 12 coefficients of the discrete cosine transform of the log-mel bands, from the second on, their
mean over the recording taken away.

What is synthetic is matched whole. What is recorded may have more before and after it (aeneas has a search of its own
for these), which is left out of the match.
"""

from __future__ import annotations

__all__ = ["VOICE", "cepstra", "check", "dtw", "warp"]

CEPSTRA = 13
VOICE = ""
