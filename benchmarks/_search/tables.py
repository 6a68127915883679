"""Tables of architectures that somebody really trained, as spaces."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from _search.spaces import Game, KnownPoint
from retiarii.mutators.choice import Categorical, Chooser, Decision
from retiarii.seeding import derive
from retiarii.space import ModelSpace
from retiarii.spaces import nas_bench_201, nas_bench_macro
from retiarii.spaces.nas_bench_201 import EDGES

TABLES = Path(__file__).parents[3] / "shared" / "tabular"


@dataclass(frozen=True)
class Published:
    """One table: a model space, its labels in the order of the table's digits, and scores."""

    name: str
    file: str
    columns: tuple[str, str]
    labels: tuple[str, ...]
    options: int

    def scores(self, folder: Path) -> dict[tuple[int, ...], float]:
        """Digits -> accuracy in percent."""
        digits, accuracy = self.columns
        with (folder / self.file).open() as rows:
            return {
                tuple(map(int, row[digits])): float(row[accuracy]) for row in csv.DictReader(rows)
            }


NB201 = Published(
    "NAS-Bench-201",
    "nb201_cifar10.csv",
    ("cell", "val_accuracy"),
    tuple(f"edge{i}{j}" for i, j in EDGES),
    5,
)
MACRO = Published(
    "NAS-Bench-Macro",
    "nas_bench_macro_cifar10.csv",
    ("layers", "mean_test_accuracy"),
    tuple(f"layer{i}" for i in range(8)),
    3,
)


class Models:
    """The models of a table, each replayed once for all seeds."""

    def __init__(self, space: ModelSpace) -> None:
        self._space = space
        self._known: dict[tuple[int, ...], KnownPoint] = {}

    def point(self, labels: Sequence[str], digits: tuple[int, ...]) -> KnownPoint:
        found = self._known.get(digits)
        if found is None:
            answers = dict(zip(labels, digits, strict=True))
            candidate = self._space.replay(lambda label, _: answers[label])
            found = KnownPoint((), candidate, candidate.canonical_hash())
            self._known[digits] = found
        return found


@dataclass(frozen=True)
class TableSpace:
    """A table as one seed sees it.

    Attributes:
        orders: for each label, the table's digit behind each option.
        renamed: the operation whose score an operation gets: the identity, but for the check.
    """

    table: Published
    models: Models
    scores: dict[tuple[int, ...], float]
    best: float
    orders: tuple[tuple[int, ...], ...]
    renamed: tuple[int, ...]

    def replay(self, chooser: Chooser) -> KnownPoint:
        domain = Categorical(self.table.options)
        decisions = []
        digits = []
        for label, order in zip(self.table.labels, self.orders, strict=True):
            raw = int(chooser(label, domain))
            digits.append(order[raw])
            decisions.append(Decision(label, domain, raw, order[raw]))
        known = self.models.point(self.table.labels, tuple(digits))
        honest = self.renamed == tuple(range(self.table.options))
        # Where the graph is not that of the score, equal graphs are different things.
        key = known.known_key if honest else str(digits)
        return KnownPoint(tuple(decisions), known.candidate, key)

    def score(self, point: KnownPoint) -> float:
        return self.scores[tuple(self.renamed[d.value] for d in point.decisions)]


class TableGame:
    """A table; `shuffled` and `renamed` are checks that nothing is tuned to it.

    Args:
        shuffled: options stand in another order at each decision and for each seed.
        renamed: each operation gets another one's scores, so that what a graph shows is wrong.
    """

    unit = "points of accuracy"

    def __init__(
        self,
        table: Published,
        models: Models,
        scores: dict[tuple[int, ...], float],
        *,
        shuffled: bool = False,
        renamed: bool = False,
    ) -> None:
        self.name = table.name
        self.name += ", options shuffled" if shuffled else ""
        self.name += ", operations relabelled" if renamed else ""
        self._table, self._models, self._scores = table, models, scores
        self._shuffled, self._renamed = shuffled, renamed
        ranked = sorted(scores.values(), reverse=True)
        self._best = ranked[0]
        self.excellent = ranked[0] - ranked[max(1, len(ranked) // 1000) - 1]

    def space(self, seed: int) -> TableSpace:
        rng = Random(derive(seed, self.name))
        usual = tuple(range(self._table.options))
        orders = [
            tuple(rng.sample(usual, len(usual))) if self._shuffled else usual
            for _ in self._table.labels
        ]
        renamed = tuple(rng.sample(usual, len(usual))) if self._renamed else usual
        while self._renamed and renamed == usual:
            renamed = tuple(rng.sample(usual, len(usual)))
        return TableSpace(
            self._table, self._models, self._scores, self._best, tuple(orders), renamed
        )


def table_games(folder: Path = TABLES) -> tuple[list[Game], list[str]]:
    """The games whose tables are there, and for each other table a line that says so."""
    games: list[Game] = []
    missing = []
    # Small versions: the same cells, of which graph and features are those of the large ones.
    spaces = {NB201: lambda: nas_bench_201(16, 1), MACRO: nas_bench_macro}
    for table, space in spaces.items():
        if not (folder / table.file).exists():
            missing.append(f"{table.name} is skipped: there is no {folder / table.file}")
            continue
        models, scores = Models(space()), table.scores(folder)
        games.append(TableGame(table, models, scores))
        if table is NB201:
            games.append(TableGame(table, models, scores, shuffled=True))
        games.append(TableGame(table, models, scores, renamed=True))
    return games, missing
