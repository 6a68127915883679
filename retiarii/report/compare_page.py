"""Several searches as one HTML file."""

from __future__ import annotations

from retiarii.report.comparing import Comparison
from retiarii.report.page import Section, page
from retiarii.report.progress import many_plot
from retiarii.report.svg import number_of, shade, text_of


def compare_page(comparison: Comparison) -> str:
    """The page: best so far over trials and over time, and a table."""
    searches = comparison.searches
    last = max(1, len(searches) - 1)
    colours = {search.name: shade(at / last) for at, search in enumerate(searches)}
    metric = searches[0].result.metric
    lines = [f"scores cannot be compared: {line}" for line in comparison.unlike]
    lines += [f"the spaces differ: {line}" for line in comparison.spaces]
    sections = [Section("Searches", _table(comparison))]
    if not comparison.unlike:
        ends = {search.name: search.found[-1].score for search in searches if search.found}
        trials = {
            search.name: [(float(step.trials), step.score) for step in search.found]
            + [(float(search.trials), ends[search.name])]
            for search in searches
            if search.found
        }
        times = {
            search.name: [(step.seconds, step.score) for step in search.found]
            + [(search.seconds, ends[search.name])]
            for search in searches
            if search.found
        }
        sections += [
            Section("Best so far, by trials", many_plot(trials, colours, "trials", metric)),
            Section("Best so far, by time", many_plot(times, colours, "seconds", metric)),
        ]
    return page(f"{len(searches)} searches for {metric}", lines, sections)


def _table(comparison: Comparison) -> str:
    head = ("search", "strategy", "trials", "seconds", "best", "regret")
    rows = []
    for search in comparison.searches:
        best = search.found[-1].score if search.found else None
        regret = comparison.regret(best)
        cells = (
            search.name,
            search.result.strategy,
            str(search.trials),
            number_of(search.seconds),
            "" if best is None else number_of(best),
            "" if regret is None else number_of(regret),
        )
        rows.append("<tr>" + "".join(f"<td>{text_of(cell)}</td>" for cell in cells) + "</tr>")
    names = "".join(f"<th>{text_of(name)}</th>" for name in head)
    return f"<table><tr>{names}</tr>{''.join(rows)}</table>"
