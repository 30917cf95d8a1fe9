"""The closed forms of sections 3 and 4 against measurement, against plain loops, and against each other."""

import itertools
import json
import math

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from indattn.theory import closed_forms as forms
from indattn.theory import run
from indattn.theory.monte_carlo import ENERGIES, WEIGHTS, Setting, estimate, exact, head_moments, orthogonal
from indattn.theory.options import Options
from indattn.theory.readings import READINGS, SENTENCES, measure, panels, sharpness_table, verdicts
from indattn.theory.threshold import measure as measure_threshold

SAMPLES = 1000


def covariance(width, seed):
    root = torch.randn(width, width + 2, generator=torch.Generator().manual_seed(seed)) / math.sqrt(width)
    return root @ root.t()


def deviations(setting, seed):
    """Every expectation that has a closed form: measured less exact, in standard errors."""
    measured, expected = estimate(setting, SAMPLES, seed), exact(setting)
    return [
        (measured[name].value - value) / max(measured[name].error, 1e-5 * abs(value), 1e-12)
        for name, value in expected.items()
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
    found = torch.tensor([d for seed, case in enumerate(cases) for d in deviations(case, seed)])
    assert (found.abs() <= 3).float().mean() >= 0.98
    assert found.abs().max() <= 4.5


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    weights=st.sampled_from(WEIGHTS),
    heads=st.integers(1, 4),
    head_width=st.integers(1, 12),
    n=st.integers(1, 40),
    sigma=st.floats(0.01, 10),
    shift=st.floats(0, 3),
    sharpening=st.floats(0, 6),
    seed=st.integers(0, 1000),
    projected=st.booleans(),
)
def test_measurement_meets_exact_forms_of_settings_at_random(
    weights, heads, head_width, n, sigma, shift, sharpening, seed, projected
):
    width = heads * head_width
    projection = torch.randn(width, width, generator=torch.Generator().manual_seed(seed)) if projected else None
    case = Setting(width, n, heads, sigma, shift, weights=weights, sharpening=sharpening, projection=projection)
    assert max(map(abs, deviations(case, seed))) <= 5


@pytest.mark.parametrize("n", [2, 7])
def test_moments_of_two_and_seven_scores_by_brute_force(n):
    # Scores of a softmax over n draws, by a plain loop over many draws.
    z = torch.randn(200_000, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = (1.7 * z).softmax(1)
    moments = forms.softmax_moments(n, 1.7)
    for found, expected in (
        (weights.square().sum(1), moments.sharpness),
        ((weights * z).sum(1).square(), moments.lean),
        ((weights * z).sum(1), moments.drift),
    ):
        assert abs(found.mean().item() - expected) <= 4 * found.std().item() / 200_000**0.5


def test_moments_at_their_limits():
    assert forms.softmax_moments(1, 3.0) == forms.SoftmaxMoments(1.0, 1.0, 0.0)
    even = forms.softmax_moments(16, 0.0)
    assert even.sharpness == pytest.approx(1 / 16, rel=1e-9)
    assert even.lean == pytest.approx(1 / 16, rel=1e-9)
    assert even.drift == pytest.approx(0, abs=1e-12)
    # Many keys: the weights tilt the normal law by e^{z}, whose mean is 1 and whose second moment is e.
    many = forms.softmax_moments(100_000, 1.0)
    assert many.sharpness * 100_000 == pytest.approx(math.e, rel=0.01)
    assert many.drift == pytest.approx(1.0, rel=1e-3)
    assert many.lean == pytest.approx(1.0, rel=1e-3)
    # Hardly any noise left in the choice: the largest of two normal numbers has the mean 1/sqrt(pi).
    assert forms.softmax_moments(2, 50.0).drift == pytest.approx(1 / math.sqrt(math.pi), rel=1e-3)
    with pytest.raises(ValueError, match="temper"):
        forms.softmax_moments(4, -1.0)


def test_lemma_1_bounds_every_output():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(50, 9, generator=generator).softmax(-1)
    noise = torch.randn(50, 9, 6, generator=generator)
    moved = (weights.unsqueeze(-1) * noise).sum(1).norm(dim=-1)
    assert (moved <= forms.corruption_bound(weights, noise) + 1e-6).all()
    one_hot = torch.eye(9)[:5]
    torch.testing.assert_close(forms.corruption_bound(one_hot, noise[:5]), noise[range(5), range(5)].norm(dim=-1))
    table = estimate(Setting(16, 8, heads=2), 200).samples
    # Of a sum over heads: each head's error is within its own bound.
    noise_energy, bound = (table[:, ENERGIES.index(name)] for name in ("noise", "bound"))
    assert (noise_energy.sqrt() <= bound + 1e-6).all()


def test_formulas_agree_where_one_contains_the_other():
    width, moments = 32, head_moments(Setting(32))
    identity = torch.eye(width, dtype=torch.float64)
    clean, noise = forms.output_energy(identity, moments), forms.corruption_energy(identity, moments.sharpness, 0.7)
    assert (clean / noise).item() == pytest.approx(forms.signal_to_noise(moments, width, 0.7))
    gamma = forms.misalignment_energy(identity, moments)
    assert (clean / gamma).item() == pytest.approx(forms.misalignment_snr(moments, width))
    # Independent weights: the paper's SNR, and gamma with the sum of squares kept.
    independent = forms.SoftmaxMoments(0.2, 0.2, 0.0)
    assert forms.signal_to_noise(independent, width, 0.7) == pytest.approx(1 / 0.49)
    shift = torch.full((width,), 0.5, dtype=torch.float64)
    assert forms.misalignment_energy(identity, independent, shift).item() == pytest.approx(8 + 2 * 32 * 0.2)
    assert forms.misalignment_energy_as_printed(8.0, 32) == 72
    assert forms.misalignment_error_of_print(0.2, 8.0, 32) == pytest.approx(72 / 20.8)
    assert forms.misalignment_error_of_print(1.0, 8.0, 32) == 1
    heads = torch.tensor([0.1, 0.5])
    parts = sum(forms.corruption_energy(identity[16 * h : 16 * h + 16], heads[h], 2.0) for h in range(2))
    assert forms.multi_head_corruption_energy(heads, 32, 2.0).item() == pytest.approx(parts.item())


def test_the_threshold_is_1_only_when_nothing_is_shared():
    assert forms.critical_noise(0.1) == pytest.approx(1)
    assert forms.critical_noise(0.1, value_correlation=0.4, noise_correlation=0.4) == pytest.approx(1)
    assert forms.critical_noise(0.04, noise_correlation=1.0) == pytest.approx(0.2)
    assert forms.critical_noise(0.04, value_correlation=1.0) == pytest.approx(5)
    assert forms.critical_noise(0.25, mean_energy=0.75) == pytest.approx(2)
    assert forms.critical_noise(0.3, energy_ratio=4.0) == pytest.approx(2)
    # Coordinates that correlate: the ratio of the measured energies at sigma 1 is the square of the formula's.
    case = Setting(8, 10, weights="independent", covariance=covariance(8, 1), noise_covariance=covariance(8, 2))
    pooled = [forms.pooled(case.head_projection()[0], c).item() for c in (case.covariance, case.noise_covariance)]
    found = estimate(case, 4000).ratio("signal", "noise")
    assert abs(found.value - forms.critical_noise(0.3, energy_ratio=pooled[0] / pooled[1]) ** 2) < 4.5 * found.error
    assert forms.student_t_critical_noise(4) == pytest.approx(math.sqrt(0.5))
    assert forms.student_t_critical_noise(2) == 0
    assert forms.student_t_critical_noise(1) == 0


def test_the_same_seed_draws_the_same():
    first, again, other = (estimate(Setting(8, 4), 50, seed).samples for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sigma": -0.1}, "sigma=-0.1"),
        ({"heads": 3}, "heads=3 does not divide width=8"),
        ({"covariance": -torch.eye(8)}, "not positive semi-definite"),
        ({"noise_covariance": torch.eye(8) + torch.ones(8, 8).triu(1)}, "not symmetric"),
        ({"other_covariance": torch.eye(7)}, r"\(8, 8\)"),
        ({"weights": "mine"}, "must be one of"),
        ({"n": 0}, "n=0"),
        ({"noise_correlation": 1.1}, "from 0 to 1"),
        ({"degrees": 0.0}, "degrees"),
    ],
)
def test_impossible_settings_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Setting(8, **wrong)


# Figure 1 --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    return Options([16, 64], 16, [0.5, 1.0, 2.0], [0.0, 1.0], 0, False, torch.device("cpu"))


@pytest.fixture(scope="module")
def table(small):
    return measure(small)


def test_figure1_measures_what_the_formulas_say(table):
    for name in ("sharpness", "signal", "noise", "misalignment", "snr", "misaligned_snr"):
        off = (table[name] - table[f"{name}_exact"]).abs()
        assert (off <= 4.5 * table[f"{name}_error"] + 1e-4 * table[f"{name}_exact"]).all(), name
        assert (table[f"{name}_error"] <= 0.02 * table[name]).all(), name


def test_a_reading_shows_every_width_noise_and_shift(table, small):
    for reading in READINGS:
        shown = panels(table, reading, small)
        assert len(shown["left"]) == 2 * 3
        assert len(shown["middle"]) == len(shown["right"]) == 2 * 2
        assert not any(panel.isna().any().any() for panel in shown.values())


def test_readings_judge_the_sentences_by_their_numbers(table, small):
    judged = verdicts(table, small)
    assert len(judged) == len(READINGS) * len(SENTENCES) == 30 * 9
    found = judged.set_index(["source", "signal", "shift", "sentence"])["holds"]
    # One-hot weights do not depend on the values: the paper's SNR and gamma hold, and nothing falls with d.
    assert found["one-hot", "output", "coordinate", "snr_is_inverse"]
    assert found["one-hot", "output", "coordinate", "as_printed"]
    assert not found["one-hot", "output", "coordinate", "falls_with_d"]
    # An energy over d coordinates against the variance of one falls with d.
    assert found["one-hot", "unit", "coordinate", "falls_with_d"]
    assert not found["softmax", "output", "coordinate", "snr_is_inverse"]
    assert not found["softmax", "output", "coordinate", "as_printed"]


def test_the_printed_gamma_is_too_large_by_the_inverse_sharpness(small):
    rows = sharpness_table(small)
    independent = rows[rows["source"] == "independent"]
    assert (independent["print_independent"] * independent["sharpness"]).sub(1).abs().max() < 1e-6
    assert ((rows["print"] - rows["print_exact"]).abs() <= 4.5 * rows["print_error"]).all()
    assert ((rows["snr"] - rows["snr_exact"]).abs() <= 4.5 * rows["snr_error"]).all()


def test_thresholds_measured_are_those_of_the_formula(small, monkeypatch):
    monkeypatch.setattr("indattn.theory.threshold.SAMPLES", 400)
    rows = measure_threshold(small)
    known = rows[rows["exact"].notna() & rows["value"].notna()]
    assert len(known) >= 70
    assert ((known["value"] - known["exact"]).abs() <= 5 * known["error"] + 1e-4).all()
    typical = rows[rows["curve"] == "half of the outputs"].set_index("value_of")["value"]
    assert typical[32.0] > typical[5.0] > typical[2.0] > typical[1.0] > 0.02  # there is one for every tail


def test_the_command_writes_tables_and_figures(compose, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("indattn.theory.readings.READINGS", READINGS[:2])
    config = compose("theory=[figure1]", "widths=[4,8]", "n=4", "sigmas=[1.0]", "shifts=[0,1]", verb="theory")
    run(config)
    written = {str(path.relative_to(tmp_path / "results")) for path in (tmp_path / "results").rglob("*.*")}
    assert {f"tables/figure1{part}.csv" for part in ("", "-readings", "-sharpness")} <= written
    assert {f"figures/figure1/{reading.name}.png" for reading in READINGS[:2]} <= written
    assert {"figures/figure1-summary.png", "figures/figure1-sharpness.pdf"} <= written
    assert set(pd.read_csv(tmp_path / "results/tables/figure1-readings.csv")["sentence"]) == set(SENTENCES)
    assert len(capsys.readouterr().out.splitlines()) == 3 + 4 + 2


def test_one_setting_is_measured_beside_its_formulas(command, tmp_path):
    (tmp_path / "w.csv").write_text("\n".join(",".join(str((i * j) % 5) for j in range(8)) for i in range(8)))
    code, out, error = command(
        *("theory", "setting", "setting.width=8", "setting.heads=2", "setting.n=12", "setting.covariance=0.3"),
        *("setting.projection=w.csv", "setting.shift=0.4", "samples=500", "format=json"),
    )
    assert (code, error) == (0, "")
    rows = {row["what"]: row for row in json.loads(out)}
    assert set(ENERGIES) < set(rows)
    assert all(abs(row["distance"]) < 4.5 for row in rows.values() if row["distance"] is not None)
    assert rows["SNR"]["exact"] == pytest.approx(rows["signal"]["exact"] / rows["noise"]["exact"])


def test_a_setting_s_query_is_none_of_its_own_keys(command, monkeypatch):
    found = []
    measure = estimate
    monkeypatch.setattr("indattn.theory.single.estimate", lambda *given: found.append(measure(*given)) or found[-1])
    code, _, _ = command("theory", "setting", "samples=500")
    assert code == 0
    sharpness = found[0].samples[:, ENERGIES.index("sharpness")]
    # A stream used for the query and again for the draws makes the first sample all but one-hot.
    assert sharpness[0] < 1.5 * sharpness[1:].max()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["setting", "setting.sigma=-1"], "setting.sigma=-1.0: must be finite and not negative"),
        (["setting", "setting.mean=nan"], "setting.mean=nan: must be finite"),
        (["setting", "setting=3"], "setting=3: must be a section"),
        (["figure1", "shifts=[]"], "shifts=[]: must not be empty"),
        (["figure1", "format=xml"], "format=xml: must be one of"),
        (["setting", "setting.heads=3"], "setting.heads=3 does not divide width=64"),
        (["setting", "setting.covariance=-0.5"], "setting.covariance is not positive semi-definite"),
        (["setting", "setting.covariance=nowhere.npy"], "setting.covariance=nowhere.npy: cannot be read"),
        (["setting", "setting.sharpening=100"], "setting.n=64, temper="),
        (["setting", "setting.widht=3"], "setting.widht: no such key; did you mean"),
        (["setting", "samples=1"], "samples=1: must be a whole number of at least 2"),
        (["figure1", "widths=[16,5000]"], "widths=[16, 5000]: at most 3600"),
        (["figure1", "sigmas=[-1]"], "sigmas=[-1]: -1 must be positive"),
        (["figure1", "widths=[0]"], "widths=[0]: 0 must be at least 2"),
        (["figure1", "widths=16"], "widths=16: must be a list"),
        (["figure1", "n=1.5"], "n=1.5: must be a whole number"),
        (["figure1", "random_seed=-1"], "random_seed=-1"),
        (["figure2"], "theory 'figure2': there is none of that name"),
    ],
)
def test_bad_input_gets_one_line(command, words, said):
    code, out, error = command("theory", *words)
    assert (code, out) == (2, "")
    assert error.startswith(f"indattn: {said}")
    assert error.count("\n") == 1
