"""Figure 1 of the paper under every reading its text admits, and how true its sentences are under each.

The paper's figure has three panels: the signal-to-noise ratio against the noise on the values, the same under
misalignment against the width d, and the energy gamma of misalignment against d for several mean shifts. The text
leaves open where the weights come from, what the signal is, and how a mean shift is counted; a reading answers all
three.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
from tqdm import tqdm

from indattn.theory.closed_forms import (
    SoftmaxMoments,
    misalignment_energy_as_printed,
    misalignment_error_of_print,
    signal_to_noise,
)
from indattn.theory.monte_carlo import Setting, estimate, exact, head_moments
from indattn.theory.options import Options

__all__ = ["READINGS", "SENTENCES", "Reading", "Sentence", "measure", "panels", "sharpness_table", "verdicts"]

#: Where the weights come from: name, source and whether scores are divided by sqrt(d).
SOURCES = {
    "softmax": ("own", True),
    "unscaled softmax": ("own", False),
    "independent": ("independent", True),
    "one-hot": ("one_hot", True),
    "uniform": ("uniform", True),
}
#: What the noise is measured against.
SIGNALS = {
    "output": "energy of the clean output",
    "value": "energy of one value",
    "unit": "1, the variance of a coordinate",
}
SHIFTS = {"coordinate": "on every coordinate", "norm": "of the mean's norm"}


@dataclass(frozen=True)
class Reading:
    """One way to read figure 1.

    Attributes:
        source: of the weights, a key of ``SOURCES``.
        signal: ``output``: ``E||o*||^2``, the paper's definition; ``value``: d, the energy of one value before it is
            averaged; ``unit``: 1, with the noise counted as variance a coordinate in the left panel and as the whole
            energy gamma in the others, as the paper does where it holds gamma against the threshold 1.
        shift: whether a mean shift is on every ``coordinate``, or the ``norm`` of the mean.
    """

    source: str
    signal: str
    shift: str

    @property
    def name(self) -> str:
        """For files and tables."""
        return f"{self.source.replace(' ', '-')}_{self.signal}_{self.shift}"

    @property
    def title(self) -> str:
        """For figures."""
        return f"{self.source} weights, signal: {SIGNALS[self.signal]}, shift {SHIFTS[self.shift]}"


READINGS = [Reading(*choice) for choice in ((a, b, c) for a in SOURCES for b in SIGNALS for c in SHIFTS)]


# Measuring -------------------------------------------------------------------------------------------------------


def measure(options: Options, progress: bool = False) -> pd.DataFrame:
    """Every energy that the readings need, measured and exact, each setting on draws of its own.

    Returns:
        one row a source, width, sigma and shift: the shift's ``norm``, and for ``sharpness``, ``signal``, ``noise``,
        ``misalignment``, ``snr`` (signal / noise) and ``misaligned_snr`` (signal / misalignment) the measured value,
        its standard error and the exact one (``x``, ``x_error``, ``x_exact``).
    """
    cases = list(_cases(options))
    rows = []
    for number, (source, width, sigma, norm) in enumerate(
        tqdm(cases, desc="figure 1", unit="setting", disable=not progress)
    ):
        weights, scaled = SOURCES[source]
        # Wide values have small errors of themselves; that of the sharpness falls with more queries.
        setting = Setting(
            width,
            options.n,
            sigma=sigma,
            shift=norm / math.sqrt(width),
            weights=weights,
            scaled=scaled,
            queries=32 if width >= 256 else 8,
        )
        measured = estimate(setting, max(64, 2**16 // width), options.seed * 100_003 + number, options.device)
        expected = exact(setting)
        row: dict[str, float | str] = {"source": source, "d": width, "n": options.n, "sigma": sigma, "shift_norm": norm}
        for name, value in expected.items():
            row |= {name: measured[name].value, f"{name}_error": measured[name].error, f"{name}_exact": value}
        for name, below in (("snr", "noise"), ("misaligned_snr", "misalignment")):
            found = measured.ratio("signal", below)
            row |= {name: found.value, f"{name}_error": found.error}
            row[f"{name}_exact"] = expected["signal"] / expected[below]
        rows.append(row)
    return pd.DataFrame(rows)


def _cases(options: Options) -> Iterator[tuple[str, int, float, float]]:
    """Source, width, sigma and norm of the shift. A draw gives a point of the left panel and one of the others."""
    for source in SOURCES:
        for width in options.widths:
            norms = {norm for shift in options.shifts for norm in (shift, shift * math.sqrt(width))}
            ordered = sorted(norms)
            for i in range(max(len(ordered), len(options.sigmas))):
                yield source, width, options.sigmas[i % len(options.sigmas)], ordered[i % len(ordered)]


def panels(table: pd.DataFrame, reading: Reading, options: Options) -> dict[str, pd.DataFrame]:
    """What the three panels show under a reading.

    Args:
        table: of :func:`measure`.
        reading: which.
        options: the shifts and sigmas wanted.

    Returns:
        ``left`` (``d, sigma``), ``middle`` and ``right`` (``d, shift``), each with ``value, error, exact``; the right
        also with ``printed`` and ``threshold``, the energy at which the ratio is one.
    """
    here = table[table["source"] == reading.source]
    left = pd.DataFrame({"d": here["d"], "sigma": here["sigma"]})
    if reading.signal == "output":
        left = left.assign(value=here["snr"], error=here["snr_error"], exact=here["snr_exact"])
    else:
        # The noise's energy, or its variance a coordinate: the energy by what averaging left of d coordinates.
        signal = here["d"] * (here["sharpness_exact"] if reading.signal == "unit" else 1.0)
        left["value"], left["exact"] = signal / here["noise"], signal / here["noise_exact"]
        left["error"] = left["value"] * here["noise_error"] / here["noise"]
    left = left.groupby(["d", "sigma"], as_index=False).first()

    shifted = []
    for shift in options.shifts:
        norm = shift * here["d"].pow(0.5) if reading.shift == "coordinate" else shift + 0 * here["d"]
        rows = here[(here["shift_norm"] - norm).abs() < 1e-9]
        shifted.append(rows.groupby("d", as_index=False).first().assign(shift=shift))
    rows = pd.concat(shifted, ignore_index=True)
    right = rows[["d", "shift"]].copy()
    right = right.assign(value=rows["misalignment"], error=rows["misalignment_error"], exact=rows["misalignment_exact"])
    right["printed"] = [
        misalignment_energy_as_printed(norm**2, d) for norm, d in zip(rows["shift_norm"], rows["d"], strict=True)
    ]
    thresholds = {"output": rows["signal_exact"], "value": rows["d"].astype(float), "unit": 0.0 * rows["d"] + 1.0}
    right["threshold"] = thresholds[reading.signal]
    middle = rows[["d", "shift"]].copy()
    if reading.signal == "output":
        middle = middle.assign(
            value=rows["misaligned_snr"], error=rows["misaligned_snr_error"], exact=rows["misaligned_snr_exact"]
        )
    else:
        middle["value"], middle["exact"] = right["threshold"] / right["value"], right["threshold"] / right["exact"]
        middle["error"] = middle["value"] * right["error"] / right["value"]
    return {"left": left, "middle": middle, "right": right}


# Judging ---------------------------------------------------------------------------------------------------------

#: How far from a stated value, and how large a fall or growth from the narrowest to the widest, counts.
TOLERANCE, CHANGE = 0.05, 0.10


def _off_by(left: pd.DataFrame) -> float:
    """The largest relative difference of an SNR from ``1 / sigma^2``."""
    return float((left["value"] * left["sigma"] ** 2 - 1).abs().max())


def _crossings(left: pd.DataFrame) -> pd.Series:
    """By width, the sigma at which the SNR is one: the SNR goes with ``1 / sigma^2``, so each point tells."""
    return (left["value"] * left["sigma"] ** 2).groupby(left["d"]).mean().pow(0.5)


def _growth(rows: pd.DataFrame) -> pd.Series:
    """By shift, the value at the widest over that at the narrowest."""
    ordered = rows.sort_values("d").groupby("shift")["value"]
    return ordered.last() / ordered.first()


@dataclass(frozen=True)
class Sentence:
    """A sentence about figure 1: its panel, what it says, the number that decides it and the rule."""

    panel: str
    text: str
    number: Callable[[pd.DataFrame], float]
    holds: Callable[[float], bool]
    rule: str


SENTENCES = {
    "snr_is_inverse": Sentence(
        "left", "SNR is 1/σ²", _off_by, lambda x: x <= TOLERANCE, "largest relative difference at most 0.05"
    ),
    "crosses_at_1": Sentence(
        "left",
        "crosses 1 at σ = 1",
        lambda rows: float((_crossings(rows) - 1).abs().max()),
        lambda x: x <= TOLERANCE,
        "largest distance of the crossing from 1 at most 0.05",
    ),
    "same_for_all_d": Sentence(
        "left",
        "same at every d",
        lambda rows: float(_crossings(rows).max() / _crossings(rows).min()),
        lambda x: x <= 1 + TOLERANCE,
        "largest crossing over smallest at most 1.05",
    ),
    "falls_with_d": Sentence(
        "middle",
        "falls with d",
        lambda rows: float(_growth(rows).max()),
        lambda x: x <= 1 - CHANGE,
        "at every shift, SNR at the widest over the narrowest at most 0.9",
    ),
    "below_1": Sentence(
        "middle", "below 1", lambda rows: float(rows["value"].max()), lambda x: x < 1, "largest SNR below 1"
    ),
    "grows_with_d": Sentence(
        "right",
        "γ grows with d",
        lambda rows: float(_growth(rows).min()),
        lambda x: x >= 1 + CHANGE,
        "at every shift, gamma at the widest over the narrowest at least 1.1",
    ),
    "grows_with_shift": Sentence(
        "right",
        "γ grows with shift",
        lambda rows: float(rows.sort_values("shift").groupby("d")["value"].agg(lambda v: v.iloc[-1] / v.iloc[0]).min()),
        lambda x: x >= 1 + CHANGE,
        "at every d, gamma at the largest shift over the smallest at least 1.1",
    ),
    "as_printed": Sentence(
        "right",
        "γ = ‖Δμ‖² + 2d",
        lambda rows: float((rows["printed"] / rows["value"] - 1).abs().max()),
        lambda x: x <= TOLERANCE,
        "printed over measured within 0.05 of 1",
    ),
    "above_threshold": Sentence(
        "right",
        "γ above threshold",
        lambda rows: float((rows["value"] / rows["threshold"]).min()),
        lambda x: x > 1,
        "smallest gamma over the signal's energy above 1",
    ),
}


def verdicts(table: pd.DataFrame, options: Options) -> pd.DataFrame:
    """Every sentence under every reading.

    Returns:
        one row each: ``source, signal, shift, panel, sentence, number, holds, rule``.
    """
    rows = []
    for reading in READINGS:
        shown = panels(table, reading, options)
        for name, sentence in SENTENCES.items():
            number = sentence.number(shown[sentence.panel])
            rows.append(
                {
                    "source": reading.source,
                    "signal": reading.signal,
                    "shift": reading.shift,
                    "panel": sentence.panel,
                    "sentence": name,
                    "number": number,
                    "holds": bool(sentence.holds(number)),
                    "rule": sentence.rule,
                }
            )
    return pd.DataFrame(rows)


# Sharpness -------------------------------------------------------------------------------------------------------


def sharpness_table(options: Options, progress: bool = False) -> pd.DataFrame:
    """Threshold and error of the printed gamma against the sharpness, at three widths and no shift.

    Returns:
        one row a source, width and sharpening: ``sharpness``, the SNR at sigma 1 and the printed gamma over the
        measured one (``print``), each with error and exact value.
    """
    rows = []
    widths = [d for d in options.widths if d in (16, 64, 256)] or options.widths[:3]
    cases = [
        (s, d, x)
        for s in ("softmax", "independent")
        for d in widths
        for x in (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
    ]
    for number, (source, width, sharpening) in enumerate(
        tqdm(cases, desc="sharpness", unit="setting", disable=not progress)
    ):
        setting = Setting(width, options.n, weights=SOURCES[source][0], sharpening=sharpening, queries=8)
        measured = estimate(setting, max(64, 2**16 // width), options.seed * 100_003 + 50_000 + number, options.device)
        moments: SoftmaxMoments = head_moments(setting)
        gamma, snr = measured["misalignment"], measured.ratio("signal", "noise")
        printed = misalignment_energy_as_printed(0.0, width)
        rows.append(
            {
                "source": source,
                "d": width,
                "sharpening": sharpening,
                "sharpness": moments.sharpness,
                "snr": snr.value,
                "snr_error": snr.error,
                "snr_exact": signal_to_noise(moments, width, 1.0),
                "print": printed / gamma.value,
                "print_error": printed / gamma.value**2 * gamma.error,
                "print_exact": printed / exact(setting)["misalignment"],
                "print_independent": misalignment_error_of_print(moments.sharpness, 0.0, width),
            }
        )
    return pd.DataFrame(rows)
