"""The strip plot of a claim as inline SVG: a dot a seed, the mean with its interval, and what it is held against."""

from __future__ import annotations

import math
from html import escape

from indattn.claims.ledger import Entry
from indattn.report.numbers import effect, interval, number

__all__ = ["strip", "ticks"]

WIDTH, LEFT, RIGHT = 400, 14, 14
DOTS, BAR, AXIS = 34, 62, 82
RADIUS = 4.0


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers between two numbers."""
    step = 10.0 ** math.floor(math.log10((high - low) / count))
    step *= min((m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= count), default=10)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(i * step, 12) for i in range(first, last + 1)]


def strip(claim: Entry) -> str:
    """The plot of a claim; an empty text if it has no points and no effect. The same claim gives the same text."""
    values = [point.value for point in claim.points]
    drawn = [v for v in (*values, claim.effect, claim.low, claim.high) if v is not None]
    if not drawn:
        return ""
    around = [*drawn, *([claim.margin] if claim.margin is not None else [])]
    low, high = min(around), max(around)
    near = 0.5 * (high - low)
    if -near < high < 0 or 0 < low < near:
        low, high = min(low, 0.0), max(high, 0.0)
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - room, high + room

    def x(value: float) -> str:
        return f"{LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT):.1f}"

    marks = ticks(low, high)
    digits = max(2, 1 + math.ceil(math.log10(max(map(abs, marks)) / (marks[1] - marks[0])))) if len(marks) > 1 else 3
    parts = [
        f'<svg class="strip" viewBox="0 0 {WIDTH} 118" role="img" aria-label="{escape(_said(claim))}">',
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{AXIS}" y2="{AXIS}"/>',
    ]
    for mark in marks:
        parts.append(f'<line class="axis" x1="{x(mark)}" x2="{x(mark)}" y1="{AXIS}" y2="{AXIS + 4}"/>')
        parts.append(f'<text x="{x(mark)}" y="{AXIS + 16}" text-anchor="middle">{number(mark, digits)}</text>')
    if claim.unit:
        parts.append(f'<text class="unit" x="{WIDTH / 2:g}" y="114" text-anchor="middle">{escape(claim.unit)}</text>')
    if low < 0 < high and claim.margin != 0:
        parts.append(f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="14" y2="{AXIS}"/>')
    if claim.margin is not None:
        at = float(x(claim.margin))
        anchor = "start" if at < 50 else "end" if at > WIDTH - 50 else "middle"
        parts.append(f'<line class="margin" x1="{at:.1f}" x2="{at:.1f}" y1="14" y2="{AXIS}"/>')
        parts.append(f'<text class="margin-name" x="{at:.1f}" y="10" text-anchor="{anchor}">margin</text>')
    for point, across, down in zip(claim.points, map(x, values), _apart([float(x(v)) for v in values]), strict=True):
        said = escape(f"{point.unit}: {number(point.value, 4)} {claim.unit or ''}".strip())
        parts.append(
            f'<circle class="seed" cx="{across}" cy="{DOTS - down:g}" r="{RADIUS:g}"><title>{said}</title></circle>'
        )
    if claim.low is not None and claim.high is not None:
        parts.append(f'<line class="interval" x1="{x(claim.low)}" x2="{x(claim.high)}" y1="{BAR}" y2="{BAR}"/>')
    if claim.effect is not None:
        said = escape(f"{effect(claim)} {interval(claim)} {claim.unit or ''}".strip())
        parts.append(f'<circle class="effect" cx="{x(claim.effect)}" cy="{BAR}" r="5.5"><title>{said}</title></circle>')
    return "".join([*parts, "</svg>"])


def _apart(places: list[float]) -> list[float]:
    """How far up or down each dot goes so that none hides another: 0, then by turns above and below."""
    offsets = [0.0]
    for k in (1, 2):
        offsets += [k * 7.0, -k * 7.0]
    chosen: list[float] = []
    for i, place in enumerate(places):
        taken = [chosen[j] for j in range(i) if abs(places[j] - place) < 2 * RADIUS]
        free = [offset for offset in offsets if offset not in taken]
        chosen.append(free[0] if free else offsets[i % len(offsets)])
    return chosen


def _said(claim: Entry) -> str:
    said = f"{effect(claim)} {interval(claim)} {claim.unit or ''}".strip()
    units = "seeds" if claim.statistic == "mean" else "settings"
    about = f", {len(claim.points)} {units}" if claim.points else ""
    margin = f", margin {number(claim.margin)}" if claim.margin is not None else ""
    return f"Strip plot: {said}{about}{margin}"
