"""Claims: their files, what their rules find, verdicts, the ledger."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hydra import initialize_config_dir

from indattn.claims import LEVEL, Statement, in_words, judge, load_statements
from indattn.errors import UserError
from indattn.evidence import Evidence, Rule
from indattn.ledger import LEDGER, load_ledger, save_ledger
from indattn.runs import FORMAT, write_json
from indattn.search_path import register
from indattn.trees import configs_dir, use

DAY = "2026-01-31"


@pytest.fixture(autouse=True)
def hydra():
    register()
    with initialize_config_dir(str(configs_dir()), version_base="1.3"):
        yield


def statement(**rule):
    about = {"section": "1", "claim": "It is better.", "reading": "ours", "experiment": "noise_curve"}
    return Statement(**about, rule=Rule(**rule))


BETTER = {"select": {"noise": 0.5}, "better": {"model": "indirect"}, "worse": {"model": "standard"}}


def finish(evidence, score, seeds=range(10), noises=(0.0, 0.5, 1.0), models=("indirect", "standard")):
    """Results of the noise curve's runs, as training leaves them; ``score(model, noise, seed)``."""
    for member in evidence._experiment("x", "noise_curve").members:
        labels = member.run.labels
        if labels["model"] in models and labels["noise"] in noises and labels["seed"] in seeds:
            accuracy = score(labels["model"], labels["noise"], labels["seed"])
            result = {"format": FORMAT, "test": {"accuracy": accuracy}, "steps": 900, "steps_to_0.9": None}
            write_json(member.run.path / "result.json", result)


def ahead(by):
    """Scores in which indirect is ahead of standard, by some noise more or less."""

    def score(model, noise, seed):
        return 0.5 + (model == "indirect") * by + 0.01 * np.sin(7 * seed + 3 * (model == "indirect"))

    return score


# Verdicts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("by", "verdict"), [(0.2, "holds"), (-0.2, "fails"), (0.0, "undecided")])
def test_a_difference_over_ten_seeds_is_decided_by_its_sign(tmp_path, by, verdict):
    evidence = Evidence(tmp_path)
    finish(evidence, ahead(by))
    [entry] = judge({"a": statement(**BETTER)}, evidence, today=DAY).claims
    assert entry.verdict == verdict
    assert (entry.seeds, entry.missing) == (10, [])
    assert entry.effect == pytest.approx(by, abs=0.01)
    assert entry.low < entry.effect < entry.high
    assert (entry.p < LEVEL) == (verdict != "undecided")


def test_few_seeds_decide_nothing_however_large_the_effect(tmp_path):
    evidence = Evidence(tmp_path)
    finish(evidence, ahead(0.4), seeds=range(9))
    # Of nine seeds nothing is missing if the rule asks for no more.
    [entry] = judge({"a": statement(**{**BETTER, "select": {"noise": 0.5, "seed": list(range(9))}})}, evidence).claims
    assert (entry.verdict, entry.seeds, entry.missing) == ("undecided", 9, [])
    assert "fewer than 10" in entry.why


def test_a_missing_run_leaves_a_claim_undecided_and_is_named(tmp_path):
    evidence = Evidence(tmp_path)
    finish(evidence, ahead(0.2))
    [gone] = [
        m.run
        for m in evidence._experiment("x", "noise_curve").members
        if (m.run.labels["model"], m.run.labels["noise"], m.run.labels["seed"]) == ("standard", 0.5, 3)
    ]
    (gone.path / "result.json").unlink()
    [entry] = judge({"a": statement(**BETTER)}, Evidence(tmp_path)).claims
    assert entry.verdict == "undecided"
    [command] = entry.missing
    assert command.startswith("indattn train experiment=noise_curve ")
    assert {"seed=3", "noise=0.5", "model=standard"} <= set(command.split())
    assert entry.seeds == 9  # the other seeds are told all the same


def test_the_family_is_corrected_together(tmp_path):
    evidence = Evidence(tmp_path)
    finish(evidence, ahead(0.2))
    alone = judge({"a": statement(**BETTER)}, evidence).claims[0]
    many = {f"c{i}": statement(**BETTER) for i in range(30)}
    among = judge(many, evidence).claims[0]
    assert alone.verdict == "holds"
    assert among.p == pytest.approx(30 * alone.p, rel=1e-4)
    assert among.verdict == "undecided"


def test_less_is_better_and_ratios_are_told_as_ratios(tmp_path):
    evidence = Evidence(tmp_path)
    finish(evidence, lambda model, noise, seed: (0.4 if model == "indirect" else 0.8) * (1 + seed / 100))
    rule = {**BETTER, "compare": "ratio", "higher": False}
    entries = judge({"a": statement(**rule, margin=0.6), "b": statement(**rule, margin=0.4)}, evidence).claims
    assert [entry.verdict for entry in entries] == ["holds", "fails"]
    assert entries[0].effect == pytest.approx(0.5)
    assert [point.value for point in entries[0].points] == pytest.approx([0.5] * 10)


def test_unreached_steps_count_as_all_of_them(tmp_path):
    evidence = Evidence(tmp_path)
    finish(evidence, ahead(0))
    level = {"select": {"noise": 0.5, "model": "indirect"}, "measure": "steps_to_90"}
    [entry] = judge({"a": statement(**level, margin=899.0)}, evidence).claims
    assert (entry.effect, entry.verdict) == (900, "holds")


def table(tree, **columns):
    (tree / "tables").mkdir(exist_ok=True)
    pd.DataFrame(columns).to_csv(tree / "tables" / "measured.csv", index=False)


EVERY = {"statistic": "every", "table": "measured.csv", "measure": "x", "error": "e", "per": ["d"]}


@pytest.mark.parametrize(
    ("x", "verdict"),
    [([2.0, 3.0], "holds"), ([0.9, 0.5], "fails"), ([2.0, 0.5], "fails"), ([2.0, 1.001], "undecided")],
)
def test_every_setting_must_be_beyond_the_margin(tmp_path, x, verdict):
    table(tmp_path, d=[16, 64], x=x, e=[0.01, 0.01])
    [entry] = judge({"a": statement(**EVERY, margin=1.0)}, Evidence(tmp_path)).claims
    assert entry.verdict == verdict
    assert entry.effect == min(x)
    assert f"d {64 if x[1] < x[0] else 16}" in entry.why


def test_agreement_is_judged_by_the_part_it_is_off(tmp_path):
    table(tmp_path, d=[10, 20], x=[20.2, 39.0], e=[0.01, 0.01])
    rule = {**EVERY, "expected": "2 * d"}
    near, far = judge(
        {"a": statement(**rule, within=0.05), "b": statement(**rule, within=0.02)}, Evidence(tmp_path)
    ).claims
    assert (near.verdict, far.verdict) == ("holds", "fails")
    assert far.effect == pytest.approx(-0.025)


def test_a_table_that_is_missing_leaves_its_claim_undecided(tmp_path):
    [entry] = judge({"a": statement(**EVERY)}, Evidence(tmp_path)).claims
    assert (entry.verdict, entry.effect) == ("undecided", None)
    assert "measured.csv is missing" in entry.why


# The ledger --------------------------------------------------------------------------------------------------


def test_a_rule_that_changes_when_its_data_is_there_is_told(tmp_path):
    evidence, first = Evidence(tmp_path), {"a": statement(**BETTER)}
    before = judge(first, evidence, today="2026-01-01")
    changed = {"a": statement(**BETTER, margin=0.1)}
    early = judge(changed, evidence, before, today="2026-01-02").claims[0]
    assert (early.rule_changed_after_data, early.rule_since) == (False, "2026-01-02")
    finish(evidence, ahead(0.2))
    judged = judge(first, evidence, before, today="2026-01-03")
    assert judged.claims[0].rule_since == "2026-01-01"  # the rule that was there before the data
    assert not judged.claims[0].rule_changed_after_data
    # Its hash was recorded without data; now there is some, and another rule comes first, then a third.
    known = judge({"a": statement(**BETTER, margin=0.2)}, evidence, judged, today="2026-01-04")
    late = judge(changed, evidence, known, today="2026-01-05").claims[0]
    assert late.rule_changed_after_data


def test_wording_is_not_part_of_the_rule():
    one = statement(**BETTER)
    assert replace(one, claim="Other words.").hash == one.hash
    assert replace(one, experiment="figure2").hash != one.hash != statement(**BETTER, margin=0.1).hash


def test_a_ledger_comes_back_and_equal_data_is_equal_bytes(tmp_path):
    evidence = Evidence(tmp_path)
    finish(evidence, ahead(0.1))
    statements = {"a": statement(**BETTER), "b": statement(**EVERY)}
    ledger = judge(statements, evidence, today=DAY)
    save_ledger(tmp_path, ledger)
    first = (tmp_path / LEDGER).read_bytes()
    assert load_ledger(tmp_path) == ledger
    save_ledger(tmp_path, judge(statements, Evidence(tmp_path), load_ledger(tmp_path), today="2026-12-31"))
    assert (tmp_path / LEDGER).read_bytes() == first


def test_a_ledger_that_cannot_be_read_says_so(tmp_path):
    with pytest.raises(UserError, match="there is none; `indattn claims` writes it"):
        load_ledger(tmp_path)
    (tmp_path / LEDGER).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        load_ledger(tmp_path)
    (tmp_path / LEDGER).write_text(json.dumps({"format": 99, "claims": [], "history": {}, "profile": "full"}))
    with pytest.raises(UserError, match="has format 99, this version reads 1"):
        load_ledger(tmp_path)


# Files -------------------------------------------------------------------------------------------------------


def test_every_shipped_claim_selects_data_and_is_undecided_without_any(tmp_path):
    statements = load_statements()
    assert len(statements) >= 20
    entries = judge(statements, Evidence(tmp_path)).claims
    assert [entry.name for entry in entries] == list(statements)
    for entry in entries:
        assert (entry.verdict, entry.effect) == ("undecided", None)
        assert entry.missing or "is missing" in entry.why


def test_shipped_tables_have_the_columns_that_claims_ask_for():
    tree = configs_dir().parent / "results"
    statements = {
        name: s for name, s in load_statements().items() if s.rule.table and (tree / "tables" / s.rule.table).is_file()
    }
    assert statements
    for entry in judge(statements, Evidence(tree)).claims:
        assert entry.points, entry.name


def write(folder, text):
    (folder / "claims").mkdir(parents=True, exist_ok=True)
    (folder / "claims" / "own.yaml").write_text(text)


ABOUT = "section: '1'\n    claim: x\n    reading: y\n    "


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("claims: 3\n", "has no section claims"),
        (f"claims:\n  own:\n    {ABOUT}\n", "claim own (own.yaml): names no experiment"),
        ("experiment: figure2\nclaims:\n  own: {section: '1'}\n", "has no claim"),
        (f"experiment: figure2\nclaims:\n  own:\n    {ABOUT}rule: {{statistc: mean}}\n", "did you mean 'statistic'"),
        (f"experiment: figure2\nclaims:\n  own:\n    {ABOUT}rule: {{statistic: men}}\n", "must be mean or every"),
        (f"experiment: figure2\nclaims:\n  own:\n    {ABOUT}rule: {{within: 0.1}}\n", "rule.within goes with"),
        (f"experiment: figure2\nclaims:\n  lemma_1:\n    {ABOUT}\n", "there is another claim of that name"),
    ],
)
def test_a_file_that_is_no_claim_is_refused_in_one_line(tmp_path, text, line):
    write(tmp_path, text)
    use([tmp_path])
    try:
        with pytest.raises(UserError) as error:
            load_statements()
    finally:
        use([])
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (statement(select={"noize": 1}), "noise_curve has no axis noize; did you mean 'noise'"),
        (statement(select={"noise": 0.123}), "selects no run of noise_curve"),
        (replace(statement(), experiment="nosuch"), "experiment 'nosuch': there is none of that name"),
        (statement(select={"model": "indirect", "noise": 0.5}, measure="acuracy"), "'acuracy' cannot be evaluated"),
        (statement(table="measured.csv", select={"nosuch": 1}), "measured.csv has no column nosuch"),
    ],
)
def test_a_rule_that_asks_for_what_is_not_there_is_refused(tmp_path, made, line):
    evidence = Evidence(tmp_path)
    finish(evidence, ahead(0))
    table(tmp_path, seed=[0], x=[1.0])
    with pytest.raises(UserError, match="claim a: ") as error:
        judge({"a": made}, evidence)
    assert line in str(error.value)


def test_other_seeds_stand_in_for_the_experiment_s(tmp_path):
    first, again = Evidence(tmp_path), Evidence(tmp_path, seeds=range(10, 20))
    finish(first, ahead(0.2))
    finish(again, ahead(-0.2), seeds=range(10, 20))
    words = [judge({"a": statement(**BETTER)}, evidence).claims[0] for evidence in (first, again)]
    assert [(entry.verdict, entry.seeds) for entry in words] == [("holds", 10), ("fails", 10)]


def test_a_rule_reads_as_a_sentence():
    words = in_words(statement(**BETTER, margin=0.05).rule, "noise_curve", 3)
    assert words.startswith(
        "holds if, in the runs of noise_curve at noise=0.5, the mean over seeds of accuracy of model=indirect less "
        "accuracy of model=standard is above 0.05, fails if it is below it"
    )
    assert "3 claims" in words
