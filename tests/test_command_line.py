"""From the words behind a verb to what Hydra reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from indattn.command_line import overrides
from indattn.errors import UserError
from indattn.verbs import VERBS


@pytest.fixture
def flags(monkeypatch):
    """Give a verb other flags."""

    def give(name, *keys):
        monkeypatch.setitem(VERBS, name, replace(VERBS[name], flags=keys))

    return give


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--format", "csv"], ["format=csv"]),
        (["--format=csv"], ["format=csv"]),
        (["--format=csv", "RUN"], ["run=['RUN']", "format=csv"]),
        (["RUN", "--format", "csv", "seed=0"], ["run=['RUN']", "format=csv", "where.seed=0"]),
        (["--cfg", "job", "--format", "csv"], ["--cfg", "job", "format=csv"]),
        (["--formats", "csv"], ["run=['csv']", "--formats"]),
    ],
    ids=str,
)
def test_options_become_keys(given, expected):
    assert overrides("show", given) == expected


def test_what_is_true_or_false_takes_no_word(flags):
    flags("data", "force", "format", "progress")
    assert overrides("data", ["prepare", "--force", "human"]) == ["data=['prepare','human']", "force=true"]
    assert overrides("data", ["--force=false", "--progress", "true"]) == ["force=false", "progress=true"]


def test_dashes_are_underscores_and_filters_keep_their_place(flags):
    flags("evaluate", "test_seed")
    flags("show", "task")
    assert overrides("evaluate", ["--test-seed", "1"]) == ["test_seed=1"]
    assert overrides("show", ["--task", "sorting"]) == ["where.task=sorting"]


@pytest.mark.parametrize("given", [["--format"], ["--format", "--cfg", "job"]], ids=" ".join)
def test_an_option_without_its_value(given):
    with pytest.raises(UserError, match="--format: a value must follow"):
        overrides("show", given)


def test_every_flag_is_a_key_of_its_verb(compose):
    for name, verb in VERBS.items():
        assert set(verb.flags) <= set(compose(verb=name)), name
        assert ("format" in verb.flags) == ("format" in compose(verb=name)), name


@pytest.mark.parametrize("option", [["--format", "csv"], ["--format=csv"]], ids=str)
def test_the_command_takes_options(command, option):
    code, out, err = command("show", *option)
    assert (code, err) == (0, "")
    assert out.startswith("task,model,")


def test_help_and_completion_name_the_options(command, monkeypatch):
    assert "--format" in command("show", "--help")[1]
    line = "indattn show --f"
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert command("-sc", "query=bash")[1].split() == ["--format"]
