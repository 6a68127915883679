"""A search as one HTML file: nothing beside it, nothing from a network, nothing to run but this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retiarii.errors import FileError, RetiariiError
from retiarii.report.bars import bars_plot
from retiarii.report.budgets import is_short, longest, remarks
from retiarii.report.curves import curves_plot, ranked
from retiarii.report.importance import importance
from retiarii.report.parallel import parallel_plot
from retiarii.report.progress import progress_plot
from retiarii.report.scatter import pairs, scatter_plot
from retiarii.report.style import SCRIPT, STYLE
from retiarii.report.svg import number_of, text_of
from retiarii.report.text import decided

if TYPE_CHECKING:
    from retiarii.result import Result
    from retiarii.trial_result import TrialResult

_ROWS = 50


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: above it.
        body: markup; everything in it that is not ours has been escaped.
        note: a line of text below the title.
    """

    title: str
    body: str
    note: str = ""


def report(result: Result) -> str:
    """The page of one search."""
    order: Sequence[str] = ()
    try:
        found = importance(result)
        order = [label for label, _ in found.shares]
        some = ", decisions that only some were asked for among them" if found.conditional else ""
        weights = Section(
            "Importance of decisions",
            bars_plot(found.shares),
            f"fANOVA over {found.trials} complete trials{some}",
        )
    except RetiariiError as error:
        why = error.cause + (f"; {error.fix}" if error.fix else "")
        weights = Section("Importance of decisions", "", why)
    early = any(t.state == "pruned" for t in result.trials)
    sections = [
        Section("Best so far", progress_plot(result), "complete trials"),
        Section("Learning curves", curves_plot(result), "dashed: stopped early" if early else ""),
        weights,
        Section("Decisions", parallel_plot(result, order), "complete trials, the best on top"),
        *(
            Section(
                f"{pair.first.name} and {pair.second.name}",
                scatter_plot(pair),
                "filled: no other is better in both",
            )
            for pair in pairs(result)
        ),
        Section(
            "Trials", _table(result), f"the best {_ROWS}" if len(result.trials) > _ROWS else ""
        ),
    ]
    facts = [result.summary, f"space: {result.space}, strategy: {result.strategy}"]
    return page(f"{result.metric}: {result.space}", [*facts, *remarks(result)], sections)


def page(title: str, lines: Sequence[str], sections: Sequence[Section]) -> str:
    """A page; sections without a body and without a note are left out."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        # Whatever a label says, no browser fetches anything for this page.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width">',
        f"<title>{text_of(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{text_of(title)}</h1>",
        *(f"<p>{text_of(line)}</p>" for line in lines),
    ]
    for section in sections:
        if section.body or section.note:
            note = f'<p class="note">{text_of(section.note)}</p>' if section.note else ""
            parts.append(
                f"<section><h2>{text_of(section.title)}</h2>{note}{section.body}</section>"
            )
    parts.append(f'<div id="tip"></div><script>{SCRIPT}</script></body></html>\n')
    return "\n".join(parts)


def write_page(text: str, file: Path) -> None:
    """Writes a page, replacing what is there.

    Raises:
        FileError: it cannot be written.
    """
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileError(
            f"cannot write the page: {error.strerror}",
            where=f"--html {file}",
            fix="give a file in a folder that you may write to",
        ) from error


def _table(result: Result) -> str:
    most = longest(result)
    others = [t for t in result.trials if t.score is None]
    rows = [_row(t, result, most) for t in [*ranked(result), *others][:_ROWS]]
    head = "".join(f"<th>{text_of(h)}</th>" for h in ("trial", result.metric, "state", "decisions"))
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _row(trial: TrialResult, result: Result, most: int | None) -> str:
    score = "" if trial.score is None else number_of(trial.score)
    mark = "*" if is_short(trial, most) else ""
    sure = "" if trial.confirmed is None else f"; {trial.confirmed}"
    asked = decided(trial.decisions)
    cells = (str(trial.id), f"{score}{mark}{sure}", trial.state, asked)
    best = ' class="winner"' if result.best is not None and result.best.id == trial.id else ""
    return (
        f'<tr{best} data-trial="{trial.id}">'
        + "".join(f"<td>{text_of(cell)}</td>" for cell in cells)
        + "</tr>"
    )
