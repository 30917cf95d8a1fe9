"""Numbers as the report writes them."""

from __future__ import annotations

import math

from indattn.claims.ledger import Entry

__all__ = ["effect", "interval", "number", "p_value", "with_unit"]

MINUS = "\u2212"


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many digits that count; a dash for none."""
    if value is None:
        return "\u2013"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value)}".replace("-", MINUS)
    return f"{value:.{digits}g}".replace("-", MINUS)


def effect(claim: Entry) -> str:
    """An effect with as many decimals as its interval is worth."""
    return _as_precise(claim.effect, claim)


def interval(claim: Entry) -> str:
    """``[low, high]``, with the decimals of the effect; nothing if there is none."""
    if claim.low is None or claim.high is None:
        return ""
    return f"[{_as_precise(claim.low, claim)}, {_as_precise(claim.high, claim)}]"


def with_unit(claim: Entry) -> str:
    """Effect, interval and unit in one line."""
    parts = [effect(claim), interval(claim), claim.unit or ""]
    return " ".join(part for part in parts if part) if claim.effect is not None else number(None)


def p_value(value: float | None) -> str:
    """A p-value: two digits that count, or that it is below a thousandth."""
    return "<0.001" if value is not None and value < 0.001 else number(value, 2)


def _as_precise(value: float | None, claim: Entry) -> str:
    if value is None or claim.low is None or claim.high is None or claim.high <= claim.low:
        return number(value)
    decimals = 1 - math.floor(math.log10((claim.high - claim.low) / 2))  # two digits of half its width
    shown = f"{value:.{min(6, max(0, decimals))}f}"
    return shown.replace("-", MINUS) if float(shown) else shown.removeprefix("-")
