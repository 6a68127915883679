from __future__ import annotations

import subprocess
import sys

import pytest

from retiarii.errors import StrategyError
from retiarii.strategies import STRATEGIES, Strategy, make_strategy
from retiarii.strategies.evolution import Evolution
from retiarii.strategies.random import RandomSearch


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_name_makes_its_strategy(name):
    assert make_strategy(name).name == name


def test_options_are_passed_on():
    made = make_strategy("evolution", population=12, sample=4)
    assert isinstance(made, Evolution)
    assert (made.population, made.sample) == (12, 4)


def test_an_instance_is_taken_as_it_is():
    mine = RandomSearch()
    assert make_strategy(mine) is mine
    with pytest.raises(StrategyError, match="made already"):
        make_strategy(mine, patience=3)


OWN = """
from retiarii.strategies import Strategy

class Mine(Strategy):
    def __init__(self, size=1, **rest): self.size = size
    def ask(self, number): return None

class Broken(Strategy):
    def __init__(self): raise RuntimeError("no luck")
    def ask(self, number): return None

class Unfinished(Strategy):
    pass

class Other:
    pass
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_strategies.py").write_text(OWN)
    (tmp_path / "broken_strategies.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_strategies"
    sys.modules.pop("own_strategies", None)


def test_module_and_class(own):
    made = make_strategy(f"{own}:Mine", size=5)
    assert isinstance(made, Strategy)
    assert made.size == 5
    assert make_strategy(f"{own}:Mine", anything=1).size == 1


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("evolutoin", "'evolution'"),
        ("foo", "known: 'cmaes', 'evolution', 'gp', 'grid', 'local'"),
        ("", "known"),
        ("own_strategies:Mien", "'Mine'"),
        ("own_strategies:Other", "known: 'Broken', 'Mine'"),
        ("own_strategies:Unfinished", "ask"),
        ("own_strategies:Broken", "no luck"),
        ("broken_strategies:Mine", "ZeroDivisionError"),
        ("no_such_module:Mine", "no_such_module"),
        (":Mine", "cannot be imported"),
        ("retiarii.seeding:Mine", "write a subclass"),
        (RandomSearch, "add ()"),
        (None, "not a strategy"),
    ],
    ids=str,
)
def test_what_cannot_be_made_is_said(own, spec, says):
    with pytest.raises(StrategyError) as caught:
        make_strategy(spec)
    assert says in str(caught.value)


def test_unknown_options_name_the_nearest():
    with pytest.raises(StrategyError, match="populatoin") as caught:
        make_strategy("evolution", populatoin=3)
    assert "'population'" in str(caught.value)


def test_strategies_do_not_import_torch():
    code = (
        "import sys; from contextlib import suppress\n"
        "from retiarii.errors import StrategyError\n"
        "from retiarii.strategies import make_strategy, STRATEGIES\n"
        "for name in STRATEGIES:\n"
        "    with suppress(StrategyError):  # its libraries may not be installed\n"
        "        make_strategy(name)\n"
        "assert not {'torch', 'optuna', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.fixture
def offered(tmp_path, monkeypatch, own):
    """Installs a package that offers these entry points."""

    def install(package: str, **points: str) -> None:
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {place}" for name, place in points.items()]
        (folder / "entry_points.txt").write_text("\n".join(["[retiarii.strategies]", *lines]))

    return install


def test_an_entry_point_is_a_name(offered, own):
    offered("theirs", mine=f"{own}:Mine")
    made = make_strategy("mine", size=7)
    assert type(made).__name__ == "Mine"
    assert made.size == 7


def test_an_entry_point_does_not_change_what_ours_mean(offered, own):
    offered("theirs", evolution=f"{own}:Mine")
    assert isinstance(make_strategy("evolution"), Evolution)


def test_entry_points_are_among_the_nearest(offered, own):
    offered("theirs", annealing=f"{own}:Mine")
    with pytest.raises(StrategyError, match="'annealing'"):
        make_strategy("anealing")


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("no_such_module:Mine", "no_such_module"),
        ("broken_strategies:Mine", "ZeroDivisionError"),
        ("own_strategies:Mien", "'Mine'"),
        ("own_strategies:Other", "Other"),
        ("own_strategies", "no module:Class"),
    ],
)
def test_an_entry_point_that_does_not_load_is_said(offered, place, says):
    offered("theirs", mine=place)
    with pytest.raises(StrategyError) as caught:
        make_strategy("mine")
    assert says in str(caught.value)
    assert "entry point 'mine'" in str(caught.value)
    assert "theirs" in str(caught.value)


def test_two_packages_that_offer_one_name(offered, own):
    offered("theirs", mine=f"{own}:Mine")
    offered("others", mine=f"{own}:Broken")
    with pytest.raises(StrategyError, match="several packages") as caught:
        make_strategy("mine")
    assert f"{own}:Broken, {own}:Mine" in str(caught.value)
