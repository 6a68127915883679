"""The page: one file that needs nothing else, whatever its labels say."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from retiarii.errors import FileError
from retiarii.experiment import Experiment
from retiarii.mutators.choice import choice, uniform
from retiarii.report.bars import bars_plot
from retiarii.report.curves import curves_plot, learning_curves
from retiarii.report.page import report, write_page
from retiarii.report.parallel import parallel_plot
from retiarii.report.progress import best_so_far, progress_plot
from retiarii.report.scatter import Pair, pairs, scatter_plot
from retiarii.report.svg import Scale, text_of
from retiarii.result import Result
from retiarii.training.function import Function
from retiarii.training.trial import Trial

Search = Callable[..., Result]

NASTY = '</text><script>alert("x")</script><img src=http://x.example/y onerror=alert(1)>\'"&\x00'


class Tags(HTMLParser):
    """Every element with its attributes; and that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def pictures(text: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(each) for each in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def kinds(picture: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [e for e in picture.iter() if kind in (e.get("class") or "").split()]


def test_a_page_has_all_plots_and_asks_for_nothing(search: Search) -> None:
    result = search()
    text = report(result)
    tags = Tags(text)
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles == [
        "Best so far", "Learning curves", "Importance of decisions", "Decisions",
        "score and params", "Trials",
    ]  # fmt: skip
    assert len(pictures(text)) == 5
    for _, attributes in tags.found:
        assert not {"src", "href", "srcset", "action", "background"} & set(attributes)
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert len(tags.named("script")) == 1
    assert len(tags.named("tr")) == 13


def test_labels_values_and_names_are_never_markup(search: Search, tmp_path: Path) -> None:
    choices = {
        "x": uniform(-5.0, 5.0, NASTY),
        "kind": choice([NASTY, NASTY + "2", "c"], "kind" + NASTY),
    }

    def values(trial: Trial) -> dict[str, float]:
        x = trial.decisions[NASTY]
        trial.report(1, **{NASTY: x})
        trial.report(2, **{NASTY: x})
        return {NASTY: x, "params": 100.0 + x}

    evaluator = Function(values, hyperparameters=choices, metric=NASTY)
    result = Experiment(None, evaluator, "random", trials=8, confirm=2).run()
    text = report(result)
    tags = Tags(text)
    assert len(tags.named("script")) == 1
    assert tags.named("img") == []
    assert not any("onerror" in attributes for _, attributes in tags.found)
    assert len(pictures(text)) == 5  # each is well formed
    write_page(text, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == text


def test_text_stays_readable() -> None:
    assert text_of("größe <= 3 & more") == "größe &lt;= 3 &amp; more"
    assert "\x00" not in text_of("\x00")
    text_of("\ud800").encode()


def test_every_trial_is_in_the_plots(search: Search) -> None:
    result = search()
    for plot in (progress_plot(result), curves_plot(result), parallel_plot(result)):
        (picture,) = pictures(plot)
        marked = {int(e.get("data-trial", "-1")) for e in picture.iter() if e.get("data-trial")}
        assert marked == set(range(12))


def test_best_so_far_only_rises(search: Search) -> None:
    result = search()
    steps = best_so_far(result)
    assert steps[0] == (0, result.trials[0].score)
    assert [score for _, score in steps] == sorted({score for _, score in steps})
    assert result.best is not None
    assert steps[-1] == (result.best.id, result.best.score)
    down = best_so_far(search(maximize=False))
    assert [score for _, score in down] == sorted({s for _, s in down}, reverse=True)


def test_curves_of_stopped_trials_are_drawn_apart(search: Search) -> None:
    result = search(scheduler="median", trials=20)
    pruned = {t.id for t in result.trials if t.state == "pruned"}
    assert pruned
    (picture,) = pictures(curves_plot(result))
    assert {int(e.get("data-trial", "-1")) for e in kinds(picture, "early")} == pruned
    assert (
        list(learning_curves(result, 2))
        == [
            t.id
            for t in sorted(result.trials, key=lambda t: -(t.score or 0.0))
            if t.id not in pruned
        ][:2]
    )


def test_nothing_to_draw_is_no_plot(search: Search) -> None:
    silent = search(lambda trial: 1.0, trials=2)
    assert curves_plot(silent) == ""
    assert "needs 4 complete trials" in report(silent)
    failed = search(lambda trial: float("nan"), trials=2)
    assert progress_plot(failed) == ""
    assert parallel_plot(failed) == ""
    assert pairs(failed) == []
    assert bars_plot([]) == ""
    Tags(report(failed))


def test_parallel_axes_are_what_varies_in_the_order_given(search: Search) -> None:
    choices = {"x": uniform(0.0, 1.0), "one": choice(["only"]), "kind": choice(["a", "b"])}
    result = search(lambda trial: trial.hyperparameters["x"], choices=choices)

    def names(plot: str) -> list[str | None]:
        return [e.text for e in kinds(pictures(plot)[0], "name")]

    assert names(parallel_plot(result)) == ["x", "kind", "score"]
    assert names(parallel_plot(result, ["kind", "x"])) == ["kind", "x", "score"]


def test_the_front_is_filled(search: Search) -> None:
    def two(trial: Trial) -> dict[str, float]:
        x = trial.hyperparameters["x"]
        return {"score": x, "cost": x * x}

    result = search(two, objectives={"score": "max", "cost": "min"})
    (pair,) = pairs(result)
    (picture,) = pictures(scatter_plot(pair))
    filled = {int(e.get("data-trial", "-1")) for e in kinds(picture, "front")}
    assert filled == {t.id for t in result.pareto}
    assert 0 < len(filled) < 12


def test_with_one_objective_the_cost_that_is_known(search: Search) -> None:
    (pair,) = pairs(search())
    assert (pair.first.name, pair.second.name) == ("score", "params")
    (pair,) = pairs(search(lambda trial: trial.hyperparameters["x"]))
    assert pair.second.name == "seconds"


def test_numbers_that_differ_by_orders_are_seen_in_their_logarithm(search: Search) -> None:
    (pair,) = pairs(search())
    points = ((0, 1.0, 1.0), (1, 2.0, 1e6))
    assert "params (log)" in scatter_plot(Pair(pair.first, pair.second, points))
    assert "(log)" not in scatter_plot(pair)


@pytest.mark.parametrize(
    ("scale", "ticks"),
    [
        (Scale(0.0, 10.0, 0, 100), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]),
        (Scale(-0.013, 0.031, 0, 100), [-0.01, 0.0, 0.01, 0.02, 0.03]),
        (Scale(1e-3, 1e2, 0, 100, log=True), [1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0]),
        (Scale(3.0, 3.0, 0, 100), [3.0]),
    ],
)
def test_ticks_are_round_and_within(scale: Scale, ticks: list[float]) -> None:
    assert scale.ticks() == pytest.approx(ticks)
    assert all(0 <= scale(tick) <= 100 for tick in scale.ticks())


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot write the page"):
        write_page("text", tmp_path / "no" / "such" / "folder.html")
