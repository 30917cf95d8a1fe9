"""The ledger: what became of each claim, and since when its rule is applied. No torch here.

It is ``<results>/ledger.json``, written by `indattn claims`. Every rule stands in it with its hash and the day on which
it was first applied: one that changed when its data was there already is told as such.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from indattn.errors import UserError
from indattn.runs import atomic

__all__ = ["LEDGER", "Entry", "Ledger", "load_ledger", "save_ledger"]

FORMAT = 1
LEDGER = "ledger.json"


@dataclass
class Entry:
    """A claim with its verdict: a line of the ledger.

    Attributes:
        name, section, claim, reading, experiment: of the claim.
        statistic: ``mean`` or ``every``.
        rule: the rule in words.
        rule_hash: of the rule.
        rule_since: the day on which it was first applied.
        rule_runs_then: data there was then: runs, or 1 for a table.
        rule_changed_after_data: whether it took the place of another that had data.
        verdict: ``holds``, ``fails`` or ``undecided``.
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
        figures, tables: that show it.
        points: ``unit`` and ``value`` of each.
    """

    name: str
    section: str
    claim: str
    reading: str
    experiment: str
    statistic: str
    rule: str
    rule_hash: str
    rule_since: str
    rule_runs_then: int
    rule_changed_after_data: bool
    verdict: str
    effect: float | None
    low: float | None
    high: float | None
    margin: float
    unit: str
    p: float | None
    seeds: int
    seeds_needed: int | None
    smallest: float | None
    missing: list[str]
    why: str
    command: str
    figures: list[str]
    tables: list[str]
    points: list[dict[str, Any]]


@dataclass
class Ledger:
    """All verdicts, and when which rule was first applied.

    Attributes:
        profile: of the experiments: ``full`` or ``quick``.
        claims: in the order of the files.
        history: by claim, each rule it had: ``hash``, ``since``, ``runs``.
    """

    profile: str
    claims: list[Entry]
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def load_ledger(results_dir: Path) -> Ledger:
    """The ledger of a results tree.

    Raises:
        UserError: if there is none, or it is damaged or of another version.
    """
    file = results_dir / LEDGER
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] == FORMAT:
            return Ledger(content["profile"], [Entry(**entry) for entry in content["claims"]], content["history"])
    except FileNotFoundError:
        raise UserError(f"{file}: there is none; `indattn claims` makes it") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); `indattn claims` makes it again once it is removed") from error
    raise UserError(f"{file} has format {content['format']}, this version reads {FORMAT}")


def save_ledger(results_dir: Path, ledger: Ledger) -> None:
    """Write the ledger, whole or not at all. Equal ledgers are equal bytes.

    Raises:
        UserError: if it cannot be written.
    """
    content = {"format": FORMAT, **asdict(ledger)}
    with atomic(results_dir / LEDGER) as file:
        json.dump(content, file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")
