"""`indattn claims`: the ledger made anew from the runs and tables there are, and printed. No torch here."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, ListConfig

from indattn.claims.evidence import Evidence
from indattn.claims.ledger import LEDGER, VERDICTS, Entry, load_ledger, save_ledger
from indattn.claims.statements import Statement, judge, load_statements
from indattn.config import check_seed
from indattn.errors import UserError, nearest
from indattn.runs import atomic
from indattn.tables import check_format, print_table

__all__ = ["run"]

#: Bold green, bold red, dim: the word says it too.
COLOURS = {"holds": "\033[1;32m", "fails": "\033[1;31m", "undecided": "\033[2m"}
CHANGED = "the rule, its runs or the claims it is corrected for changed when data was there"
COLUMNS = ("claim", "section", "verdict", "effect", "interval", "margin", "of", "p", "units")


def run(config: DictConfig) -> None:
    """The verb ``claims``.

    Raises:
        UserError: for bad input, a claim that is none, or a ledger of another version.
    """
    statements = load_statements()
    names = list(config.name or [])
    for name in names:
        if name not in statements:
            raise UserError(f"claim {name!r}: there is none of that name{nearest(name, statements)}")
    if config.verdict not in (None, *VERDICTS):
        raise UserError(f"verdict={config.verdict}: must be {', '.join(VERDICTS)}{nearest(config.verdict, VERDICTS)}")
    experiments = {statement.experiment for statement in statements.values()}
    if config.by is not None and config.by not in experiments:
        near = nearest(str(config.by), experiments, 20)
        raise UserError(f"by={config.by}: decides no claim{near}")
    if config.profile not in ("full", "quick"):
        raise UserError(f"profile={config.profile}: must be full or quick")
    check_format(config.format)
    tree = _results_dir(config)
    if config.seed is not None:
        _on_other_seeds(config, tree, statements, names)
        return
    ledger = judge(statements, Evidence(tree, config.profile), load_ledger(tree) if (tree / LEDGER).is_file() else None)
    save_ledger(tree, ledger)
    with atomic(tree / "tables" / "claims.csv") as file:
        pd.DataFrame([_row(entry, exact=True) for entry in ledger.claims]).to_csv(
            file, index=False, lineterminator="\n"
        )
    chosen = [entry for entry in ledger.claims if _is_chosen(entry, config, names)]
    if config.format != "table":
        print_table([_row(entry, exact=True) for entry in chosen], COLUMNS, config.format)
    elif names:
        print("\n\n".join(_page(entry) for entry in chosen))
    else:
        _list(chosen)


def _is_chosen(entry: Entry, config: DictConfig, names: Sequence[str]) -> bool:
    return (
        (not names or entry.name in names)
        and config.verdict in (None, entry.verdict)
        and config.by in (None, entry.experiment)
    )


def _on_other_seeds(config: DictConfig, tree: Path, statements: Mapping[str, Statement], names: Sequence[str]) -> None:
    """Print the verdicts on claims by seeds beside those on the same claims by others; nothing is written."""
    if not isinstance(config.seed, ListConfig) or not config.seed:
        raise UserError(f"seed={config.seed}: must be a list, as seed=[10,11,12,13,14,15,16,17,18,19]")
    for seed in config.seed:
        check_seed(seed)
    # Claims of one experiment are corrected for one another; those of others need not be looked at.
    wanted = {config.by} if config.by else {statements[name].experiment for name in names or statements}
    of_seeds = {
        name: one
        for name, one in statements.items()
        if one.rule.table is None and one.rule.statistic == "mean" and one.experiment in wanted
    }
    own, other = (judge(of_seeds, Evidence(tree, config.profile, seeds)).claims for seeds in ((), list(config.seed)))
    rows = [
        {
            "claim": entry.name,
            "verdict": entry.verdict,
            "effect": _short(entry.effect),
            "on these seeds": again.verdict,
            "their effect": _short(again.effect),
            "their interval": _interval(again),
            "of": entry.unit,
            "seeds": again.seeds,
        }
        for entry, again in zip(own, other, strict=True)
        if again.seeds and _is_chosen(entry, config, names)
    ]
    if not rows:
        raise UserError(f"seed={list(config.seed)}: no claim has runs of these seeds; indattn reproduce makes them")
    print_table(rows, list(rows[0]), config.format)
    if config.format == "table":
        decided = [row for row in rows if row["verdict"] != "undecided"]
        same = sum(row["verdict"] == row["on these seeds"] for row in decided)
        against = sum({row["verdict"], row["on these seeds"]} == {"holds", "fails"} for row in decided)
        print(
            f"\n{len(decided)} of these claims are decided; on these seeds {same} are so too, {against} the other way."
        )


def _results_dir(config: DictConfig) -> Path:
    if config.results_dir is not None:
        return Path(str(config.results_dir))
    usual = Path(os.environ.get("INDATTN_RESULTS", "results"))
    return usual / "quick" if config.profile == "quick" else usual


def _row(entry: Entry, exact: bool = False) -> dict[str, Any]:
    return {
        "claim": entry.name,
        "section": entry.section,
        "verdict": entry.verdict,
        "effect": entry.effect if exact else _short(entry.effect),
        "interval": _interval(entry),
        "margin": entry.margin if exact else _short(entry.margin),
        "of": entry.unit,
        "p": entry.p if exact else _short(entry.p),
        "units": entry.seeds,
    }


def _short(number: float | None) -> str | None:
    return None if number is None else f"{number:.3g}"


def _interval(entry: Entry) -> str | None:
    return None if entry.low is None else f"{entry.low:.3g} to {entry.high:.3g}"


def _list(entries: list[Entry]) -> None:
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        print_table([_row(entry) for entry in entries], COLUMNS, "table")
    head, rule, *lines = said.getvalue().splitlines()
    print("\n".join([head, rule, *(_coloured(line, e.verdict) for line, e in zip(lines, entries, strict=True))]))
    counts = [f"{sum(entry.verdict == word for entry in entries)} {word}" for word in VERDICTS]
    print(f"\n{len(entries)} claims: {', '.join(counts)}. indattn claims NAME says all about one.")


def _coloured(text: str, verdict: str) -> str:
    """The verdict in its colour, where a terminal shows it and nobody asked for none (https://no-color.org)."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return text.replace(verdict, f"{COLOURS[verdict]}{verdict}\033[0m", 1)


def _page(entry: Entry) -> str:
    """All that there is to say of a claim."""
    since = (
        f"{entry.rule_since}, when {entry.rule_runs_then} of its data was there"
        if entry.rule_runs_then
        else (f"{entry.rule_since}, before its data")
    )
    effect = "none yet"
    if entry.effect is not None:
        interval = f" [{_interval(entry)}]" if entry.low is not None else ""
        effect = f"{entry.effect:.4g}{interval} {entry.unit}; margin {entry.margin:g}"
    numbers = [f"corrected p {entry.p:.3g}"] if entry.p is not None else []
    if entry.smallest is not None:
        numbers.append(f"{entry.seeds} units see {entry.smallest:.3g} beyond the margin with 80% power")
    parts = [
        ("claim", f"{entry.claim} ({entry.section})"),
        ("reading", entry.reading),
        ("rule", f"{entry.rule} ({entry.rule_hash}, since {since})"),
        (
            "warning",
            CHANGED if entry.rule_changed_after_data else "",
        ),
        ("effect", effect),
        ("numbers", "; ".join(numbers)),
        ("why", entry.why),
        ("missing", "; ".join(entry.missing[:3]) + (" ..." if len(entry.missing) > 3 else "")),
        ("shown in", ", ".join([*entry.figures, *entry.tables])),
        ("command", entry.command),
    ]
    lines = [_coloured(f"{entry.name}: {entry.verdict}", entry.verdict)]
    for head, text in parts:
        if text:
            lines.append(textwrap.fill(text, 110, initial_indent=f"  {head:<9}", subsequent_indent=" " * 11))
    return "\n".join(lines)
