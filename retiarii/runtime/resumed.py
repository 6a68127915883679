"""Whether a search that resumes proposes what it had proposed before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retiarii.errors import SpaceError, StoreError, StrategyError
from retiarii.mutators.choice import check_raw
from retiarii.runtime.rows import TrialRow
from retiarii.runtime.shown import plain

if TYPE_CHECKING:
    from retiarii.search_space import Point


def check_proposal(row: TrialRow, point: Point, key: str) -> None:
    """Makes sure that going through the search again proposes what was stored.

    Raises:
        StoreError: it does not.
    """
    stored, now = row.raws, point.raws
    if stored == now and row.key == key:
        return
    if stored == now:
        detail = "the same decisions lead to another model"
    else:
        before = {label: shown for label, _, shown in row.decisions}
        after = {d.label: plain(d.value) for d in point.decisions}
        detail = f"stored was {before}, proposed is {after}"
    raise not_the_same(row.id, detail)


def check_point(point: object, number: int, strategy: str) -> None:
    """Makes sure that what a strategy proposes is a point of a space.

    Raises:
        StrategyError: it is something else, or has an answer that the space does not offer.
    """
    from retiarii.search_space import Point

    if not isinstance(point, Point):
        raise StrategyError(
            f"strategy {strategy!r} proposed a {type(point).__name__} for trial {number}",
            where=f"{strategy}.ask({number})",
            fix="return what self.space.replay(chooser) gives, or None where nothing is left",
        )
    for made in point.decisions:
        try:
            check_raw(made.label, made.domain, made.raw)
        except (SpaceError, TypeError):
            raise StrategyError(
                f"strategy {strategy!r} proposed {made.raw!r} for {made.label!r}, which is "
                f"outside of {made.domain}",
                where=f"{strategy}.ask({number})",
                fix="return what self.space.replay(chooser) gives",
            ) from None


def not_the_same(number: int, detail: str) -> StoreError:
    """The error of a trial that is not what was stored."""
    return StoreError(
        f"this search cannot be resumed: trial {number} would not be the same again: {detail}",
        where=f"trial {number}",
        fix="a space, a strategy and hyper-parameters must depend on nothing but the file and "
        "the seed: no clock, no unseeded random numbers; start anew in another directory",
    )
