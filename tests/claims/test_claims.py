"""Claims: their files, what their rules find, verdicts, the ledger."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hydra import initialize_config_dir

from indattn.claims.evidence import Evidence, Rule
from indattn.claims.ledger import LEDGER, load_ledger, save_ledger
from indattn.claims.statements import LEVEL, Statement, in_words, judge, load_statements
from indattn.claims.verdicts import LEAST_SEEDS
from indattn.errors import UserError
from indattn.runs import FORMAT, write_json
from indattn.search_path import register
from indattn.trees import configs_dir, use

DAY = "2026-01-31"


EXPERIMENT = """# @package _global_
hydra:
  mode: MULTIRUN
  sweeper:
    params: {seed: "0,1,2,3,4,5,6,7,8,9", noise: 0.5, model: "indirect,standard"}
"""


@pytest.fixture(autouse=True)
def hydra(tmp_path_factory):
    tree = tmp_path_factory.mktemp("own")
    (tree / "experiment").mkdir()
    (tree / "experiment" / "mine.yaml").write_text(EXPERIMENT)
    use([tree])
    register()
    with initialize_config_dir(str(configs_dir()), version_base="1.3"):
        yield
    use([])


def statement(**rule):
    about = {"section": "1", "claim": "It is better.", "reading": "ours", "experiment": "mine"}
    return Statement(**about, rule=Rule(**rule))


BETTER = {"select": {"noise": 0.5}, "better": {"model": "indirect"}, "worse": {"model": "standard"}}


def finish(evidence, score, seeds=range(10)):
    """Results of the experiment's runs, as training leaves them; ``score(model, noise, seed)``."""
    for member in evidence._experiment("x", "mine").members:
        labels = member.run.labels
        if labels["seed"] in seeds:
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
        for m in evidence._experiment("x", "mine").members
        if (m.run.labels["model"], m.run.labels["noise"], m.run.labels["seed"]) == ("standard", 0.5, 3)
    ]
    (gone.path / "result.json").unlink()
    [entry] = judge({"a": statement(**BETTER)}, Evidence(tmp_path)).claims
    assert entry.verdict == "undecided"
    [command] = entry.missing
    assert command.startswith("indattn train experiment=mine ")
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


@pytest.mark.parametrize(
    ("reached", "margin", "verdict"),
    [
        ({"indirect": 300}, 1.0, "holds"),  # standard takes at least 900: a third or less
        ({"indirect": 300}, 0.2, "undecided"),  # the ratio is at most a third, and may be below a fifth
        ({"standard": 300}, 0.5, "fails"),  # indirect takes at least three times as long
        ({"standard": 300}, 4.0, "undecided"),
        ({"indirect": 300, "standard": 300}, 1.5, "holds"),
        ({}, 1.5, "undecided"),
    ],
)
def test_steps_that_were_not_reached_decide_only_what_more_of_them_could_not_turn(tmp_path, reached, margin, verdict):
    evidence = Evidence(tmp_path)
    finish(evidence, ahead(0))
    for member in evidence._experiment("x", "mine").members:
        file = member.run.path / "result.json"
        if file.is_file() and (steps := reached.get(member.run.labels["model"])):
            write_json(file, json.loads(file.read_text()) | {"steps_to_0.9": steps})
    rule = {**BETTER, "compare": "ratio", "higher": False, "measure": "steps_to_90"}
    [entry] = judge({"a": statement(**rule, margin=margin)}, Evidence(tmp_path)).claims
    assert entry.verdict == verdict
    assert ("more steps could turn" in entry.why) == (verdict == "undecided")


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


def test_rows_of_one_unit_are_averaged_only_where_a_rule_says_so(tmp_path):
    table(tmp_path, d=[16, 16, 64], x=[2.0, 4.0, 5.0], e=[0.3, 0.4, 0.1])
    with pytest.raises(UserError, match="claim a: 2 rows are of d 16"):
        judge({"a": statement(**EVERY)}, Evidence(tmp_path))
    [entry] = judge({"a": statement(**EVERY, pool=True, margin=1.0)}, Evidence(tmp_path)).claims
    assert (entry.verdict, entry.effect) == ("holds", 3.0)


def test_too_few_settings_decide_nothing(tmp_path):
    table(tmp_path, d=[16, 64], x=[2.0, 3.0], e=[0.0, 0.0])
    rules = {str(n): statement(**EVERY, margin=1.0, least=n) for n in (2, 3)}
    entries = judge(rules, Evidence(tmp_path)).claims
    assert [(entry.verdict, entry.why) for entry in entries][1] == ("undecided", "2 of 3 settings are there")
    assert entries[0].verdict == "holds"


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
    # Its hash was recorded without data; now there is some, and another rule comes.
    late = judge(changed, evidence, judged, today="2026-01-04").claims[0]
    assert late.rule_changed_after_data


def test_more_seeds_or_other_claims_beside_it_change_a_rule_too(tmp_path):
    evidence, alone = Evidence(tmp_path), {"a": statement(**BETTER)}
    finish(evidence, ahead(0.2), seeds=range(20))
    before = judge(alone, Evidence(tmp_path), today="2026-01-01")
    more = judge(alone, Evidence(tmp_path, seeds=range(20)), before, today="2026-01-02").claims[0]
    assert (more.rule_changed_after_data, more.rule_since) == (True, "2026-01-02")
    beside = judge(alone | {"b": statement(**BETTER)}, Evidence(tmp_path), before, today="2026-01-02").claims[0]
    assert beside.rule_changed_after_data
    again = judge(alone, Evidence(tmp_path), before, today="2026-01-02").claims[0]
    assert (again.rule_changed_after_data, again.rule_since) == (False, "2026-01-01")


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
    with pytest.raises(UserError, match="has format 99, this version reads 2"):
        load_ledger(tmp_path)


# Files -------------------------------------------------------------------------------------------------------


def test_every_shipped_claim_selects_data_and_is_undecided_without_any(tmp_path):
    statements = load_statements()
    assert len(statements) >= 20
    evidence = Evidence(tmp_path)
    entries = judge(statements, evidence).claims
    assert [entry.name for entry in entries] == list(statements)
    for entry in entries:
        assert (entry.verdict, entry.effect) == ("undecided", None)
        assert entry.missing or "is missing" in entry.why
        if entry.missing:  # enough seeds for a verdict, once they are there
            seeds = {m.run.labels["seed"] for m in evidence._experiment(entry.name, entry.experiment).members}
            assert len(seeds) >= LEAST_SEEDS, entry.name


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
        (f"experiment: figure2\nclaims:\n  own:\n    {ABOUT}rule: {{within: 0.1, expected: '1'}}\n", "statistic=every"),
        ("experiment: figure2\nclaims: [\n", "own.yaml: while parsing"),
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
        (statement(select={"noize": 1}), "mine has no axis noize; did you mean 'noise'"),
        (statement(select={"noise": 0.123}), "selects no run of mine: noise=0.123"),
        (
            statement(**{**BETTER, "worse": {"model": "standrd"}}),
            "selects no run of mine: noise=0.5, model=standrd",
        ),
        (replace(statement(), experiment="nosuch"), "experiment 'nosuch': there is none of that name"),
        (statement(select={"model": "indirect", "noise": 0.5}, measure="acuracy"), "'acuracy' cannot be evaluated"),
        (statement(table="measured.csv", select={"nosuch": 1}), "measured.csv has no column nosuch"),
        (statement(table="measured.csv", measure="word"), "'word' cannot be evaluated"),
        (statement(table="measured.csv", measure="x"), "x is not a number at seed 1"),
        (
            statement(table="measured.csv", measure="1", better={"side": "a"}, worse={"side": "b"}),
            "measured.csv has seed 0 on one side alone",
        ),
    ],
)
def test_a_rule_that_asks_for_what_is_not_there_is_refused(tmp_path, made, line):
    evidence = Evidence(tmp_path)
    finish(evidence, ahead(0))
    table(tmp_path, seed=[0, 1], side=["a", "b"], x=[1.0, np.nan], word=["w", "v"])
    with pytest.raises(UserError, match="claim a: ") as error:
        judge({"a": made}, evidence)
    assert line in str(error.value)


@pytest.mark.parametrize("content", ["", 'a,b\n1,2,3\n4\n"', "d,x\n1,2\n3,4,5,6\n"])
def test_a_damaged_table_is_one_line(tmp_path, content):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "measured.csv").write_text(content)
    with pytest.raises(UserError, match=r"measured.csv is damaged .*; indattn reproduce mine makes it anew") as e:
        judge({"a": statement(**EVERY)}, Evidence(tmp_path))
    assert "\n" not in str(e.value)


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
