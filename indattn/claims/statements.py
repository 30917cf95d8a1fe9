"""Claims of the paper and the verdicts on them. No torch here.

A claim of the paper is an entry of a file under ``configs/claims/``: what it says, how we read it, which experiment
bears on it and the rule that decides. :func:`judge` applies the rules to the runs and tables there are.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from indattn.claims.evidence import Evidence, Observation, Observed, Rule
from indattn.claims.ledger import Entry, Ledger, Point
from indattn.claims.verdicts import LEAST_SEEDS, Claim, Verdict, decide, decide_every
from indattn.config import section
from indattn.errors import UserError, nearest
from indattn.trees import trees

__all__ = ["Statement", "in_words", "judge", "load_statements"]

LEVEL = 0.05
"""Chance of one wrong verdict in a family of claims."""


@dataclass
class Statement:
    """A claim as its file has it.

    Attributes:
        section: of the paper.
        claim: what the paper says, in our words.
        reading: how what it leaves open is read.
        experiment: whose runs, or whose table, decide.
        rule: how.
        figures, tables: of the results tree, that show it.
    """

    section: str = ""
    claim: str = ""
    reading: str = ""
    experiment: str = ""
    rule: Rule = field(default_factory=Rule)
    figures: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)

    @property
    def hash(self) -> str:
        """Of rule and experiment; wording is not part of it.

        How many runs the experiment has, and for how many claims p-values are corrected, stands beside it in the
        ledger's history. That rows are pooled changes no verdict, it permits one.
        """
        rule = asdict(self.rule)
        del rule["pool"]
        if rule["least"] == 1:
            del rule["least"]
        content = json.dumps({"experiment": self.experiment, **rule}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


# Files -------------------------------------------------------------------------------------------------------


def load_statements() -> dict[str, Statement]:
    """All claims by name, in the order of their files' names and of the claims in them.

    A file has ``experiment`` and ``claims``; what else it has on top, its claims have too where they say nothing.

    Raises:
        UserError: if a file is not of that form, a claim names no experiment, or two have one name.
    """
    found: dict[str, Statement] = {}
    for file in sorted(path for tree in trees() for path in (tree / "claims").glob("*.yaml")):
        try:
            common: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
        except (YAMLError, OmegaConfBaseException, OSError) as error:
            raise UserError(f"{file}: {' '.join(str(error).split())}") from error
        claims = common.pop("claims", None) if isinstance(common, dict) else None
        if not isinstance(claims, dict) or not all(isinstance(own, dict) for own in claims.values()):
            raise UserError(f"{file}: has no section claims, of sections")
        for name, own in claims.items():
            where = f"claim {name} ({file.name})"
            if str(name) in found:
                raise UserError(f"{where}: there is another claim of that name")
            content = {**common, **own}
            rule = section(Rule, content.pop("rule", {}), f"{where}: rule")
            statement = section(Statement, content, where, {"rule": rule})
            _check(statement, where)
            found[str(name)] = statement
    return found


def _check(statement: Statement, where: str) -> None:
    rule = statement.rule
    if not statement.experiment:
        raise UserError(f"{where}: names no experiment; give it one of configs/experiment/")
    for key in ("claim", "section", "reading"):
        if not getattr(statement, key):
            raise UserError(f"{where}: has no {key}")
    for key, value, allowed in (
        ("statistic", rule.statistic, ("mean", "every")),
        ("compare", rule.compare, ("difference", "ratio")),
    ):
        if value not in allowed:
            raise UserError(f"{where}: rule.{key}={value}: must be {' or '.join(allowed)}{nearest(value, allowed)}")
    if bool(rule.better) != bool(rule.worse):
        raise UserError(f"{where}: rule has only one of better and worse")
    if (rule.within is None and rule.expected is not None) or (
        rule.within is not None and rule.expected is None and not rule.is_ratio
    ):
        raise UserError(f"{where}: rule.within goes with rule.expected, or with the ratio of better and worse")
    if rule.within is not None and rule.statistic == "mean":
        raise UserError(f"{where}: rule.within goes with rule.statistic=every")
    if rule.is_ratio and rule.within is None and not rule.margin > 0:
        raise UserError(f"{where}: rule.margin={rule.margin}: must be positive, of a ratio")


# Judging -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Decision:
    """What became of a claim: the numbers as they are told, ratios and not their logarithms."""

    word: str
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    seeds_needed: int | None = None
    smallest: float | None = None


def judge(
    statements: Mapping[str, Statement], evidence: Evidence, before: Ledger | None = None, today: str | None = None
) -> Ledger:
    """Verdicts on all claims.

    Claims of one experiment on means are a family: their p-values are corrected for one another. A claim whose data is
    not complete is undecided, and still counts in its family.

    Args:
        statements: by name.
        evidence: where their data comes from.
        before: the ledger there was; it knows since when a rule is applied.
        today: of a rule that is new, as 2026-01-31; ``None``: what the clock says.
    """
    observed = {name: evidence.observe(name, s.experiment, s.rule) for name, s in statements.items()}
    families: dict[str, list[str]] = {}
    decisions: dict[str, _Decision] = {}
    for name, statement in statements.items():
        if statement.rule.statistic == "mean":
            families.setdefault(statement.experiment, []).append(name)
        else:
            decisions[name] = _in_every(statement.rule, observed[name])
    for family in families.values():
        verdicts = decide([_as_claim(statements[name].rule, observed[name]) for name in family], LEVEL)
        for name, verdict in zip(family, verdicts, strict=True):
            decisions[name] = _of_mean(statements[name].rule, observed[name], verdict)
    today = today or datetime.date.today().isoformat()
    history = {name: list(rules) for name, rules in (before.history if before else {}).items()}
    entries = []
    for name, statement in statements.items():
        rules = history.setdefault(name, [])
        size = len(families[statement.experiment]) if statement.rule.statistic == "mean" else 1
        applied = {"hash": statement.hash, "asks": observed[name].wanted, "family": size}
        if not rules or any(rules[-1][key] != value for key, value in applied.items()):
            rules.append({**applied, "since": today, "runs": observed[name].there})
        entries.append(_entry(name, statement, observed[name], decisions[name], rules, size, evidence.profile))
    return Ledger(evidence.profile, entries, history)


def _signed(rule: Rule, values: Sequence[float]) -> tuple[list[float], float]:
    """Values and margin so that the claim says that values are above it."""
    sign = 1.0 if rule.higher else -1.0
    if rule.within is not None:
        apart = [math.exp(value) - 1 if rule.is_ratio else value for value in values]
        return [rule.within - abs(value) for value in apart], 0.0
    return [sign * value for value in values], sign * (math.log(rule.margin) if rule.is_ratio else rule.margin)


def _as_claim(rule: Rule, observed: Observed) -> Claim:
    values, margin = _signed(rule, [point.value for point in observed.points])
    return Claim(values, margin)


def _of_mean(rule: Rule, observed: Observed, verdict: Verdict) -> _Decision:
    if not verdict.interval.count:
        return _Decision(verdict.word)
    sign = 1.0 if rule.higher else -1.0
    ends = sorted(sign * end for end in (verdict.interval.low, verdict.interval.high))
    p = {"holds": verdict.p_holds, "fails": verdict.p_fails}.get(verdict.word, min(verdict.p_holds, verdict.p_fails))
    effect, low, high = (_number(_told(rule, value)) for value in (sign * verdict.interval.mean, *ends))
    word = _standing(rule, observed, verdict.word)
    return _Decision(word, effect, low, high, _number(p), verdict.seeds, _number(verdict.smallest))


def _in_every(rule: Rule, observed: Observed) -> _Decision:
    if not observed.points:
        return _Decision("undecided")
    points = observed.points
    values, margin = _signed(rule, [point.value for point in points])
    word, z = decide_every(values, [point.error for point in points], margin, LEVEL)
    far = _farthest(rule, points)
    effect, low, high = (_number(_told(rule, far.value + side * z * far.error)) for side in (0, -1, 1))
    return _Decision(_standing(rule, observed, word) if len(points) >= rule.least else "undecided", effect, low, high)


def _standing(rule: Rule, observed: Observed, word: str) -> str:
    """The verdict, unless values that are only known from one side could turn it."""
    below = any(point.at_most for point in observed.points)
    above = any(point.at_least for point in observed.points)
    against = {"holds": (above, below)[rule.higher], "fails": (below, above)[rule.higher]}
    return "undecided" if against.get(word) or (rule.within is not None and (below or above)) else word


def _farthest(rule: Rule, points: Sequence[Observation]) -> Observation:
    """The unit in which the claim is nearest to wrong, or most wrong."""
    signed, _ = _signed(rule, [point.value for point in points])
    return points[min(range(len(points)), key=signed.__getitem__)]


def _entry(
    name: str,
    statement: Statement,
    observed: Observed,
    decision: _Decision,
    rules: list[dict[str, Any]],
    family: int,
    profile: str,
) -> Entry:
    rule, then = statement.rule, rules[-1]
    word = "undecided" if observed.missing or observed.problem else decision.word
    command = f"indattn reproduce {statement.experiment}" + (f" profile={profile}" if profile == "quick" else "")
    return Entry(
        name=name,
        section=statement.section,
        claim=statement.claim,
        reading=statement.reading,
        experiment=statement.experiment,
        statistic=rule.statistic,
        rule=in_words(rule, statement.experiment, family),
        rule_hash=statement.hash,
        rule_since=then["since"],
        rule_runs_then=then["runs"],
        rule_changed_after_data=any(later["runs"] > 0 for later in rules[1:]),
        verdict=word,
        effect=decision.effect,
        low=decision.low,
        high=decision.high,
        margin=rule.margin if rule.within is None else rule.within,
        unit=rule.unit,
        p=decision.p,
        seeds=len(observed.points),
        seeds_needed=decision.seeds_needed,
        smallest=decision.smallest,
        missing=observed.missing,
        why=_why(rule, observed, decision, word),
        command=command,
        figures=list(statement.figures),
        tables=list(statement.tables),
        points=[Point(point.label, _rounded(_told(rule, point.value))) for point in observed.points],
    )


def _told(rule: Rule, value: float) -> float:
    """A value as one tells it: a ratio, not its logarithm."""
    return math.exp(value) if rule.is_ratio else value


def _rounded(value: float) -> float:
    """Six digits are enough for every verdict."""
    return float(f"{value:.6g}")


def _number(value: float) -> float | None:
    return _rounded(value) if math.isfinite(value) else None


# Words -------------------------------------------------------------------------------------------------------


def in_words(rule: Rule, experiment: str, family: int) -> str:
    """The rule as a sentence.

    Args:
        rule: the rule.
        experiment: its data's.
        family: how many claims it is corrected for, with itself.
    """
    what = rule.measure
    if rule.better:
        sides = [f"{rule.measure} of {', '.join(_pairs(side))}" for side in (rule.better, rule.worse)]
        what = f"{sides[0]} {'by' if rule.is_ratio else 'less'} {sides[1]}"
    if rule.within is not None:
        relation, opposite = f"within {rule.within:.0%} of {rule.expected or 1}", "farther from it"
    else:
        words = ("above", "below") if rule.higher else ("below", "above")
        relation, opposite = f"{words[0]} {rule.margin:g}", f"{words[1]} it"
    data = rule.table or f"the runs of {experiment}"
    where = f"in {data}" + (f" at {', '.join(_pairs(rule.select))}" if rule.select else "")
    units = " and ".join(rule.per)
    if rule.statistic == "every":
        return (
            f"holds if, {where}, {what} is {relation} for every {units}, fails if for one it is {opposite}: "
            + (f"by intervals of {1 - LEVEL:.0%} for all of them at once" if rule.error else "values are exact")
            + (f", at least {rule.least} of them" if rule.least > 1 else "")
        )
    return (
        f"holds if, {where}, the mean over {units}s of {what} is {relation}, fails if it is {opposite}: "
        f"one-sided sign-flip tests at {LEVEL:.0%}, Holm's correction over both directions of {family} "
        f"claim{'s' * (family > 1)}, at least {LEAST_SEEDS} {units}s"
    )


def _pairs(chosen: Mapping[str, Any]) -> Iterator[str]:
    for key, value in chosen.items():
        yield f"{key}={str(value).lower() if isinstance(value, bool) else value}"


def _why(rule: Rule, observed: Observed, decision: _Decision, word: str) -> str:
    """One line on what decided, or on what is wanting."""
    if observed.problem:
        return observed.problem
    if observed.missing:
        return f"{len(observed.missing)} of {observed.wanted} runs are missing"
    count, units = len(observed.points), " and ".join(rule.per)
    if rule.statistic == "every":
        if count < rule.least:
            return f"{count} of {rule.least} settings are there"
        far = _farthest(rule, observed.points)
        head = {"holds": "nearest to the margin", "fails": "farthest beyond it"}.get(word, "not told apart from it")
        return f"{count} settings, {head}: {far.label} with {_told(rule, far.value):.3g}"
    if word != "undecided":
        return f"{count} {units}s, corrected p {decision.p:.2g}"
    unreached = sum(point.at_most or point.at_least for point in observed.points)
    if unreached and decision.p is not None and decision.p < LEVEL and count >= LEAST_SEEDS:
        return f"of {unreached} of {count} {units}s 0.9 was never reached, and more steps could turn the verdict"
    if count < LEAST_SEEDS:
        return f"{count} {units}s; fewer than {LEAST_SEEDS} decide nothing"
    if decision.seeds_needed is None:
        return f"{count} {units}s do not tell it from the margin, nor would 10,000 if it is as found"
    return f"{count} {units}s do not tell it from the margin; {decision.seeds_needed} would if it is as found"
