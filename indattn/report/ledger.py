"""The ledger as the report reads it: a claim each, with its verdict and the numbers behind it."""

from __future__ import annotations

import json
import math
import typing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from indattn.errors import UserError, nearest

__all__ = ["VERDICTS", "Claim", "Point", "read_ledger"]

FORMAT = 1
VERDICTS = ("holds", "fails", "undecided")


class Point(typing.NamedTuple):
    """One unit of an analysis: ``unit`` is what it is (``seed 0``), ``value`` the statistic there."""

    unit: str
    value: float


@dataclass(frozen=True)
class Claim:
    """A claim of the ledger; what it does not say is ``None`` or empty.

    Attributes:
        name: a word that names it.
        claim: the claim, in our words.
        verdict: one of :data:`VERDICTS`.
        section: where the paper makes it.
        reading: what was left open, and how it is read.
        experiment: the experiment whose runs settle it.
        statistic: which statistic does.
        rule: when it holds and when it fails, in words.
        rule_hash: what tells this wording from others.
        rule_since: the date since when the rule stands.
        rule_runs_then: how many of the runs that it reads were there on that date.
        rule_changed_after_data: whether it was worded anew when runs were there.
        effect: the statistic, in ``unit``.
        low: lower end of its 95% interval.
        high: upper end of it.
        margin: what the effect is held against, in ``unit``.
        unit: of these numbers.
        p: the p-value, corrected for the number of claims.
        seeds: how many seeds there are.
        seeds_needed: how many the rule asks for, where that is more.
        smallest: the smallest effect that so many seeds would show.
        missing: commands that make the missing runs.
        why: the verdict's reason, one line.
        command: what makes its runs, figures, tables and verdict.
        figures: names below ``figures/``.
        tables: names below ``tables/``.
        points: the statistic of each seed.
    """

    name: str
    claim: str
    verdict: str
    section: str | None = None
    reading: str | None = None
    experiment: str | None = None
    statistic: str | None = None
    rule: str | None = None
    rule_hash: str | None = None
    rule_since: str | None = None
    rule_runs_then: int | None = None
    rule_changed_after_data: bool = False
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    margin: float | None = None
    unit: str | None = None
    p: float | None = None
    seeds: int | None = None
    seeds_needed: int | None = None
    smallest: float | None = None
    missing: list[str] = field(default_factory=list)
    why: str | None = None
    command: str | None = None
    figures: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)


NUMBERS = ("effect", "low", "high", "margin", "p", "seeds", "seeds_needed", "smallest", "rule_runs_then")
LISTS = ("missing", "figures", "tables")


def read_ledger(file: Path) -> list[Claim]:
    """The claims of a ledger, in its order.

    Raises:
        UserError: if it is missing, damaged, of another version, or says of a claim what a claim cannot have.
    """
    try:
        ledger = json.loads(file.read_text(encoding="utf-8"))
        version, entries = ledger["format"], ledger["claims"]
        if version == FORMAT and not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
            raise ValueError("claims is no list of claims")
    except FileNotFoundError as error:
        raise UserError(f"{file}: no ledger there; `indattn claims` writes it") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); `indattn claims` writes it anew") from error
    if version != FORMAT:
        raise UserError(f"{file} has format {version}, this version reads {FORMAT}; `indattn claims` writes it anew")
    claims = [_claim(entry, f"{file}, claim {number}") for number, entry in enumerate(entries, 1)]
    names = [claim.name for claim in claims]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{file}: two claims are called {twice!r}; `indattn claims` writes it anew")
    return claims


def _claim(entry: dict[str, Any], where: str) -> Claim:
    def wrong(key: str, right: str) -> UserError:
        return UserError(f"{where}: {key}={entry.get(key)!r}: must be {right}; `indattn claims` writes it anew")

    known = {f.name for f in fields(Claim)}
    given = {key: value for key, value in entry.items() if key in known and value is not None}
    for key in ("name", "claim", "verdict"):
        if not isinstance(given.get(key), str):
            raise wrong(key, "a text")
    if given["verdict"] not in VERDICTS:
        raise wrong("verdict", f"one of {', '.join(VERDICTS)}{nearest(given['verdict'], VERDICTS, 0)}")
    for key in NUMBERS:
        if key in given and (isinstance(given[key], bool) or not isinstance(given[key], int | float)):
            raise wrong(key, "a number")
        if key in given and not math.isfinite(given[key]):
            del given[key]
    for key in LISTS:
        if not all(isinstance(name, str) for name in given.get(key, [])):
            raise wrong(key, "a list of texts")
    try:
        points = [Point(str(point["unit"]), float(point["value"])) for point in given.pop("points", [])]
    except (KeyError, TypeError, ValueError) as error:
        raise wrong("points", "a list of unit and value") from error
    return Claim(**given, points=[point for point in points if math.isfinite(point.value)])
