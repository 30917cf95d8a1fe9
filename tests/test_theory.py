"""The closed forms of sections 3 and 4 against measurement, and against each other."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from indattn.theory import closed_forms as forms
from indattn.theory.monte_carlo import ENERGIES, WEIGHTS, Setting, estimate, exact, orthogonal

SAMPLES = 1000


def covariance(width, seed):
    root = torch.randn(width, width + 2, generator=torch.Generator().manual_seed(seed)) / math.sqrt(width)
    return root @ root.t()


def deviations(setting, samples=SAMPLES, seed=0):
    """Every expectation that has a closed form: measured less exact, in standard errors."""
    measured, expected = estimate(setting, samples, seed), exact(setting)
    return [
        (measured[name].value - expected[name]) / max(measured[name].error, 1e-5 * abs(expected[name]), 1e-12)
        for name in expected
        if math.isfinite(expected[name])
    ]


def grid():
    """Settings of every kind the options allow, and combinations of them."""
    generator = torch.Generator().manual_seed(1)
    for weights, width, n, (sharpening, scaled) in itertools.product(
        WEIGHTS, (4, 16, 64), (2, 16, 48), ((0.5, True), (2.0, True), (1.0, False), (0.0, True))
    ):
        yield Setting(width, n, weights=weights, sharpening=sharpening, scaled=scaled, sigma=0.7, shift=0.5)
    for weights, heads, seed in itertools.product(WEIGHTS, (1, 2, 4), range(4)):
        width = 8
        yield Setting(
            width,
            n=5 + 6 * seed,
            heads=heads,
            sigma=0.3 + seed,
            shift=0.4 * seed,
            mean=0.2 * seed,
            weights=weights,
            projection=[orthogonal(width, generator), torch.randn(width, width, generator=generator)][seed % 2],
            covariance=covariance(width, seed),
            other_covariance=covariance(width, seed + 10),
            noise_covariance=covariance(width, seed + 20),
            value_correlation=0.3 * (seed % 3),
            noise_correlation=0.4 * (seed % 2),
            query=torch.randn(heads, width, generator=generator),
        )
    for weights, (value, noise), degrees in itertools.product(
        WEIGHTS, ((0.0, 0.5), (0.5, 0.0), (0.2, 0.9), (1.0, 1.0)), (None, 9.0)
    ):
        yield Setting(12, 10, 3, value_correlation=value, noise_correlation=noise, degrees=degrees, weights=weights)


def test_measurement_meets_every_exact_form():
    cases = list(grid())
    assert len(cases) >= 200
    found = torch.tensor([d for seed, case in enumerate(cases) for d in deviations(case, seed=seed)])
    assert (found.abs() <= 3).float().mean() >= 0.98
    assert found.abs().max() <= 4.5
