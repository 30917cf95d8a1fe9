"""`indattn report`: the ledger with its figures, tables and curves as a page that needs nothing else, and as text.

Everything comes from what is committed of a results tree: the ledger, records, tables, figures. No torch here.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from omegaconf import DictConfig, ListConfig

from indattn.claims.ledger import VERDICTS, load_ledger
from indattn.errors import UserError
from indattn.report import numbers
from indattn.report.curves import noise_panels
from indattn.report.making import making
from indattn.report.parts import Part, parts
from indattn.report.recordings import collect, write_recordings
from indattn.runs import atomic

__all__ = ["run", "write_report"]

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("tables.js", "curves.js", "viewer.js")


def run(config: DictConfig) -> None:
    """The verb ``report``."""
    viewer = {key: _listed(value) for key, value in config.viewer.items()}
    for key in ("task", "model"):
        if not viewer[key] or not all(isinstance(name, str) for name in viewer[key]):
            raise UserError(f"viewer.{key}={config.viewer[key]}: must be a name" + " or several" * (key == "model"))
    if len(viewer["task"]) > 1:
        raise UserError(f"viewer.task={config.viewer.task}: must be one task")
    for key in ("noise", "seed"):
        if not viewer[key] or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in viewer[key]):
            raise UserError(f"viewer.{key}={config.viewer[key]}: must be a number or several")
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in viewer["example"]):
        raise UserError(f"viewer.example={config.viewer.example}: must be whole numbers from 0")
    for path in write_report(Path(config.results_dir), viewer):
        print(path)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, ListConfig) else [] if value is None else [value]


def write_report(results_dir: Path, viewer: dict[str, list[Any]]) -> list[Path]:
    """Write ``report/index.html`` and ``report/report.md`` of a results tree, and the recordings they show.

    The same tree gives the same bytes.

    Args:
        results_dir: the results tree.
        viewer: the runs whose attention is shown: lists ``task`` (of one), ``model``, ``noise``, ``seed`` and
            ``example``.

    Returns:
        the files written.

    Raises:
        UserError: without a ledger, if something in the tree is damaged, or if the report cannot be written.
    """
    folder = results_dir / "report"
    ledger = load_ledger(results_dir)
    claims = parts(results_dir, ledger.claims)
    panels = noise_panels(results_dir)
    kept = folder / "recordings.json"
    recordings = collect(
        results_dir, kept, viewer["task"][0], viewer["model"], viewer["noise"], viewer["seed"], viewer["example"]
    )
    made = making(results_dir, folder / "commits.json")
    _complain(claims)
    counts = Counter(part.claim.verdict for part in claims)
    content = {
        "parts": claims,
        "quick": ledger.profile == "quick",
        "counts": {verdict: counts[verdict] for verdict in VERDICTS},
        "panels": panels,
        "recordings": recordings,
        "train": _train_command(viewer),
        "made": made,
    }
    files = {"index.html": _html(content), "report.md": _markdown(content)}
    for name, text in files.items():
        with atomic(folder / name) as out:
            out.write(text)
    if recordings:
        write_recordings(kept, recordings)
    return [folder / name for name in files]


def _complain(claims: list[Part]) -> None:
    """Say on the terminal what claims name and the tree has not."""
    missing = dict.fromkeys(
        [f"figures/{figure.name}" for part in claims for figure in part.figures if not figure.there]
        + [f"tables/{table.name}" for part in claims for table in part.tables if not table.there]
    )
    if missing:
        print(f"not there, and left out: {', '.join(missing)}", file=sys.stderr)


def _train_command(viewer: dict[str, list[Any]]) -> str:
    axes = {"task": viewer["task"], "model": viewer["model"], "noise": viewer["noise"], "seed": viewer["seed"]}
    sweep = "-m " if any(len(values) > 1 for values in axes.values()) else ""
    return f"indattn train {sweep}" + " ".join(f"{key}={','.join(map(str, v))}" for key, v in axes.items())


def _environment(escaped: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": numbers.number,
        "p": numbers.p_value,
        "effect": numbers.effect,
        "interval": numbers.interval,
        "with_unit": numbers.with_unit,
        "json": _json,
        "md": _md,
    }
    return environment


def _html(content: dict[str, Any]) -> str:
    scripts = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    styles = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    page = _environment(escaped=True).get_template("page.html")
    return page.render(**content, styles=Markup(styles), scripts=Markup(scripts))


def _markdown(content: dict[str, Any]) -> str:
    text = _environment(escaped=False).get_template("report.md").render(**content)
    return re.sub(r"\n{3,}", "\n\n", text)


def _json(value: Any) -> Markup:
    """JSON that may stand in a script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _md(text: str | None) -> str:
    """A text as one line of Markdown, in which nothing is markup."""
    line = " ".join((text or "").split())
    return "".join(f"\\{character}" if character in "\\`*_[]<>|#" else character for character in line)
