"""Plays on several processes, a few seeds at a time, as many seeds as there is time for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

from _search.overhead import milliseconds
from _search.players import players
from _search.playing import Run, play_seeds
from _search.spaces import Game
from _search.synthetic import LayersGame, TuningGame
from _search.tables import TABLES, table_games

# Seconds that a process plays before it reports, and seeds at most.
_REPORT_SECONDS, _MOST = 10.0, 20


@dataclass(frozen=True)
class Match:
    """One strategy on one game, results told in batches.

    Attributes:
        game: its name.
        seeds: how many at most.
        limit: seconds of the processor after which no more seeds are begun.
    """

    game: str
    strategy: str
    batch: int
    seeds: int
    limit: float


@cache
def games(folder: Path = TABLES) -> tuple[tuple[Game, ...], tuple[str, ...]]:
    """The games, in order, and a line for each table that is not there; made once a process."""
    tables, missing = table_games(folder)
    return (*tables, LayersGame(), TuningGame()), tuple(missing)


def _play(folder: Path, match: Match, first: int, trials: int, count: int) -> Run:
    (game,) = (each for each in games(folder)[0] if each.name == match.game)
    make = players()[match.strategy]
    return play_seeds(make, game, range(first, first + count), trials, match.batch)


def _overhead(strategy: str, trials: int, limit: float) -> tuple[int, float] | str:
    return milliseconds(players()[strategy], trials, trials // 10, limit)


def _count(run: Run, limit: float) -> int:
    """How many seeds to play next: one to begin with, then as many as there is time for."""
    if not run.regrets:
        return 1
    each = max(run.seconds / len(run.regrets), 1e-6)
    time = min(_REPORT_SECONDS, limit - run.seconds)
    return max(1, min(int(time / each), _MOST))


class Crew:
    """Processes that play.

    Args:
        workers: how many.
        folder: where the tables are.
    """

    def __init__(self, workers: int, folder: Path) -> None:
        self._pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        self._folder = folder

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def play(
        self, matches: Sequence[Match], first: int, trials: int
    ) -> Iterator[tuple[Match, Run]]:
        """Plays all matches; each is given back when it is done.

        Args:
            matches: the first are begun first.
            first: the first seed.
            trials: how many each seed has.
        """
        found = {match: Run((), 0.0) for match in matches}
        under_way: dict[Future[Run], Match] = {}

        def begin(match: Match) -> None:
            done = len(found[match].regrets)
            count = min(_count(found[match], match.limit), match.seeds - done)
            given = (self._folder, match, first + done, trials, count)
            under_way[self._pool.submit(_play, *given)] = match

        ahead = list(reversed(matches))
        # Few are under way at once, so that a game's matches are played near each other, and what
        # a process knows of its models is used again.
        while ahead or under_way:
            while ahead and len(under_way) < 8:
                begin(ahead.pop())
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                match = under_way.pop(future)
                run = found[match] = found[match].with_more(future.result())
                over = run.refused is not None or run.seconds >= match.limit
                if over or len(run.regrets) >= match.seeds:
                    yield match, run
                else:
                    begin(match)

    def overheads(
        self, strategies: Sequence[str], trials: int, limit: float
    ) -> dict[str, tuple[int, float] | str]:
        """What each strategy takes late in a search; see `milliseconds`."""
        asked = {name: self._pool.submit(_overhead, name, trials, limit) for name in strategies}
        return {name: future.result() for name, future in asked.items()}
