from __future__ import annotations

from pathlib import Path

import pytest

from retiarii.errors import StoreError
from retiarii.runtime.identity import check_same, definitions, difference, local_files, normal

TEXT = '''
"""A file."""
import math

WIDTH = 3

class Net:
    """A net."""
    def forward(self, x):
        return x + 1  # adds one

def score(trial):
    return 1

if __name__ == "__main__":
    print("hello")
'''


def _definitions(tmp_path: Path, text: str) -> dict[str, str]:
    file = tmp_path / "space.py"
    file.write_text(text)
    return definitions([file], tmp_path)


def test_names_of_definitions(tmp_path: Path) -> None:
    assert list(_definitions(tmp_path, TEXT)) == [
        "space.py: other statements",
        "space.py: WIDTH",
        "space.py: class Net",
        "space.py: function score",
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("# adds one", "# something else"),
        ("x + 1", "(x   +\n            1)"),
        ('"""A net."""', '"""Another text."""'),
        ('        """A net."""\n', ""),
        ('"""A file."""', "'''Other.'''"),
        ('print("hello")', 'print("bye")'),
        ("\nclass Net", "\n\n\n\nclass Net"),
    ],
)
def test_comments_and_layout_do_not_count(tmp_path: Path, before: str, after: str) -> None:
    assert before in TEXT or before.strip() in TEXT
    assert _definitions(tmp_path, TEXT) == _definitions(tmp_path, TEXT.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after", "where"),
    [
        ("x + 1", "x + 2", "class Net"),
        ("return 1", "return 2", "function score"),
        ("WIDTH = 3", "WIDTH = 4", "WIDTH"),
        ("import math", "import cmath", "other statements"),
    ],
)
def test_what_changed_is_named(tmp_path: Path, before: str, after: str, where: str) -> None:
    was = _definitions(tmp_path, TEXT)
    now = _definitions(tmp_path, TEXT.replace(before, after))
    assert list(difference(was, now)) == [f"space.py: {where}: changed"]


def test_modules_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text("import mutators\nfrom layers.conv import Conv\nimport math")
    (tmp_path / "mutators.py").write_text("def f():\n    import deep\n")
    (tmp_path / "deep.py").write_text("import space")
    (tmp_path / "unused.py").write_text("broken (")
    (tmp_path / "layers").mkdir()
    (tmp_path / "layers" / "__init__.py").write_text("")
    (tmp_path / "layers" / "conv.py").write_text("from . import pool\nfrom .. import no")
    (tmp_path / "layers" / "pool.py").write_text("Conv = 1")
    names = [f.relative_to(tmp_path).as_posix() for f in local_files(tmp_path / "space.py")]
    assert names == [
        "space.py", "deep.py", "layers/__init__.py", "layers/conv.py", "layers/pool.py",
        "mutators.py",
    ]  # fmt: skip


def test_difference_is_readable() -> None:
    was = {
        "seed": 0,
        "evaluator": {"epochs": 5, "lr": [0.1]},
        "gone": 1,
        "text": "a\nb",
        "h": "a" * 16,
    }
    now = {
        "seed": 1,
        "evaluator": {"epochs": 5, "lr": [0.2]},
        "new": "x",
        "text": "a\nc",
        "h": "b" * 16,
    }
    assert list(difference(was, now)) == [
        "seed: was 0, is 1",
        "evaluator.lr: was [0.1], is [0.2]",
        "gone: gone, was 1",
        'text: line 2 was "b", is "c"',
        "h: changed",
        'new: new, is "x"',
    ]


def test_things_of_different_kinds_differ_in_their_kind() -> None:
    tpe = {"strategy": {"name": "tpe", "startup": 10, "patience": 9}, "seed": 1}
    random = {"strategy": {"name": "random", "patience": 8}, "seed": 2}
    assert list(difference(tpe, random)) == [
        'strategy: was "tpe", is "random"',
        "seed: was 1, is 2",
    ]
    other = {"strategy": {**tpe["strategy"], "startup": 20}, "seed": 1}
    assert list(difference(tpe, other)) == ["strategy.startup: was 10, is 20"]
    assert list(difference({"kind": "a", "x": 1}, {"kind": "b"})) == ['kind: was "a", is "b"']


def test_check_same() -> None:
    facts = {"seed": 1, "options": (1, 2), "fn": max}
    check_same(normal(facts), facts, "DIR")  # as read back from JSON
    with pytest.raises(StoreError) as caught:
        check_same(facts, {**facts, "seed": 2}, "DIR")
    assert "seed: was 1, is 2" in str(caught.value)
    assert "at: DIR" in str(caught.value)


def test_many_differences_are_cut() -> None:
    with pytest.raises(StoreError, match="and 88 more"):
        check_same({str(i): i for i in range(100)}, {}, "DIR")
