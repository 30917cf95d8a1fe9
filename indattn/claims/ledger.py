"""The ledger: what became of each claim, and since when its rule is applied. No torch here.

It is ``<results>/ledger.json``, written by `indattn claims`. Every rule stands in it with its hash and the day on which
it was first applied: one that changed when its data was there already is told as such.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf.errors import MissingMandatoryValue

from indattn.config import section
from indattn.errors import UserError, nearest
from indattn.runs import atomic

__all__ = ["LEDGER", "VERDICTS", "Entry", "Ledger", "Point", "load_ledger", "save_ledger"]

FORMAT = 2
LEDGER = "ledger.json"
VERDICTS = ("holds", "fails", "undecided")
APPLIED = {"hash", "asks", "family", "since", "runs"}
REMAKE = "and `indattn claims` writes it anew"


@dataclass
class Point:
    """One unit of a claim's data: what it is (``seed 0``), and the statistic there."""

    unit: str
    value: float


@dataclass
class Entry:
    """A claim with its verdict: a line of the ledger.

    Attributes:
        name, claim, section, reading, experiment: of the claim.
        verdict: one of :data:`VERDICTS`.
        statistic: ``mean`` or ``every``.
        rule: the rule in words.
        rule_hash: of the rule.
        rule_since: the day on which it was first applied.
        rule_runs_then: data there was then: runs, or 1 for a table.
        rule_changed_after_data: whether it took the place of another when data was there: another rule, other runs
            that it asks for, or another number of claims that it is corrected for.
        effect, low, high: the mean over units with its 95% interval; of ``every``, the unit in which the
            claim is nearest to wrong, or most wrong, with its interval.
        margin: what the effect is held against.
        unit: of the effect.
        p: corrected p-value of the verdict, or the smaller of both if there is none; ``None`` of ``every``.
        seeds: units.
        seeds_needed: how many would decide with 80% power, if the effect is as it was found.
        smallest: the effect beyond the margin that this many see with 80% power.
        missing: commands of the runs that are not there.
        why: one line.
        command: what makes it again.
        figures, tables: below ``figures/`` and ``tables/``, that show it.
        points: a value a unit.
    """

    name: str
    claim: str
    verdict: str
    section: str = ""
    reading: str = ""
    experiment: str = ""
    statistic: str = "mean"
    rule: str = ""
    rule_hash: str = ""
    rule_since: str = ""
    rule_runs_then: int = 0
    rule_changed_after_data: bool = False
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    margin: float | None = None
    unit: str = ""
    p: float | None = None
    seeds: int = 0
    seeds_needed: int | None = None
    smallest: float | None = None
    missing: list[str] = field(default_factory=list)
    why: str = ""
    command: str = ""
    figures: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)


@dataclass
class Ledger:
    """All verdicts, and when which rule was first applied.

    Attributes:
        profile: of the experiments: ``full`` or ``quick``.
        claims: in the order of the files.
        history: by claim, each rule it had: ``hash``; ``asks``, how many runs of its experiment; ``family``, how many
            claims it is corrected for; ``since``; ``runs``, those that were there then.
    """

    profile: str
    claims: list[Entry]
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def load_ledger(results_dir: Path) -> Ledger:
    """The ledger of a results tree.

    Raises:
        UserError: if there is none, it is damaged or of another version, or says what no claim can have.
    """
    file = results_dir / LEDGER
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise UserError(f"{file} has format {content['format']}, this version reads {FORMAT}; remove it, {REMAKE}")
        entries = [_entry(entry, f"{file}, claim {number}") for number, entry in enumerate(content["claims"], 1)]
        ledger = Ledger(content["profile"], entries, content["history"])
        if any(set(rule) != APPLIED for rules in ledger.history.values() for rule in rules):
            raise ValueError("its history lacks something")
    except FileNotFoundError:
        raise UserError(f"{file}: there is none; `indattn claims` writes it") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({error}); remove it, {REMAKE}") from error
    return ledger


def _entry(content: Any, where: str) -> Entry:
    try:
        entry = section(Entry, content, where)
    except MissingMandatoryValue as error:
        raise UserError(f"{where}: {str(error).splitlines()[0]}") from error
    if entry.verdict not in VERDICTS:
        raise UserError(
            f"{where}.verdict={entry.verdict}: there is none of that name{nearest(entry.verdict, VERDICTS)}"
        )
    return entry


def save_ledger(results_dir: Path, ledger: Ledger) -> None:
    """Write the ledger, whole or not at all. Equal ledgers are equal bytes.

    Raises:
        UserError: if it cannot be written.
    """
    content = {"format": FORMAT, **asdict(ledger)}
    with atomic(results_dir / LEDGER) as file:
        json.dump(content, file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")
