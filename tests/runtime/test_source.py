from __future__ import annotations

import inspect
import pickle
import sys
from pathlib import Path

import pytest

from retiarii.errors import FileError, SpaceError
from retiarii.runtime.source import FileSource, load_space_file

GOOD = """
from retiarii.mutators.choice import choice
from retiarii.training.function import Function

def score(trial):
    return 1.0

space = None
evaluator = Function(score, hyperparameters={"x": choice([1, 2], "x")})
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "space.py"
    path.write_text(GOOD)
    return path


def _refused(file: Path, text: str, match: str) -> FileError:
    file.write_text(text)
    before = set(sys.modules)
    with pytest.raises(FileError, match=match) as caught:
        load_space_file(file)
    left = {name for name in set(sys.modules) - before if name.startswith("retiarii_file")}
    assert not left
    assert caught.value.fix
    return caught.value


def test_loads(file: Path) -> None:
    loaded = load_space_file(file)
    assert loaded.space is None
    assert loaded.path == file
    assert list(loaded.evaluator.hyperparameters()) == ["x"]
    assert "space.py: function score" in loaded.definitions


def test_loads_a_relative_path(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert load_space_file("space.py").path == file


def test_what_the_file_defines_can_be_pickled_and_looked_up(file: Path) -> None:
    file.write_text(GOOD.replace("return 1.0", "return 1.5"))
    function = load_space_file(file).evaluator._fn
    assert pickle.loads(pickle.dumps(function)) is function
    assert "1.5" in inspect.getsource(function)


def test_modules_beside_it(file: Path, tmp_path: Path) -> None:
    file.write_text(
        GOOD.replace("return 1.0", "import late; return late.VALUE") + "import helper\n"
    )
    (tmp_path / "helper.py").write_text("VALUE = 1")
    (tmp_path / "late.py").write_text("VALUE = 2.5")
    loaded = load_space_file(file)
    assert [name for name in loaded.definitions if "VALUE" in name] == [
        "helper.py: VALUE",
        "late.py: VALUE",
    ]
    assert loaded.evaluator._fn(None) == 2.5  # imported after the file has run
    assert sys.path[0] != str(tmp_path)


def test_a_helper_of_another_folder_is_not_taken(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "helper_of_both.py").write_text(f"NAME = {name!r}")
        (folder / "space.py").write_text(
            GOOD + "from helper_of_both import NAME\nscore.name = NAME"
        )
        found.append(load_space_file(folder / "space.py").evaluator._fn.name)
    assert found == ["one", "two"]


def test_a_file_that_changed_while_searching(file: Path) -> None:
    source = FileSource(file, load_space_file(file).digest)
    file.write_text(GOOD + "# a comment\n")
    assert source.load().digest == source.digest
    file.write_text(GOOD.replace("1.0", "2.0"))
    with pytest.raises(FileError, match="changed while the search was running"):
        source.load()


def test_not_there(file: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file") as caught:
        load_space_file(tmp_path / "spce.py")
    assert "'space.py'" in str(caught.value)
    with pytest.raises(FileError, match="no such file"):
        load_space_file(tmp_path / "nowhere" / "space.py")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="a folder"):
        load_space_file(tmp_path)


def test_not_python(tmp_path: Path) -> None:
    (tmp_path / "space.txt").write_text(GOOD)
    with pytest.raises(FileError, match="not a Python file"):
        load_space_file(tmp_path / "space.txt")


def test_not_text(file: Path) -> None:
    file.write_bytes(b"\x00\x01\x02")
    with pytest.raises(FileError):
        load_space_file(file)
    file.write_bytes(b"x = '\xff'")
    with pytest.raises(FileError):
        load_space_file(file)


def test_syntax_error(file: Path) -> None:
    error = _refused(file, "x = 1\ny = (2\n\ndef f(:\n", "syntax error")
    assert error.where is not None
    assert error.where.startswith(f"{file}:")
    assert int(error.where.rpartition(":")[2]) in (2, 4)


def test_syntax_error_in_a_helper(file: Path, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("x = 1\nx = = 2\n")
    error = _refused(file, "import helper", "syntax error")
    assert error.where == f"{tmp_path / 'helper.py'}:2"


def test_missing_import(file: Path) -> None:
    error = _refused(file, "import os\nimport not_installed_anywhere\n", "not_installed_anywhere")
    assert error.where == f"{file}:2"
    assert "pip install" in str(error.fix)


def test_missing_name_in_an_import(file: Path) -> None:
    error = _refused(file, "from os import no_such_name\n", "no_such_name")
    assert error.where == f"{file}:1"


def test_exception(file: Path) -> None:
    error = _refused(file, "def f():\n    return 1 / 0\n\nf()\n", "ZeroDivisionError")
    assert error.where == f"{file}:2"


def test_exception_below_the_users_code(file: Path) -> None:
    error = _refused(file, "import json\n\njson.loads('nonsense')\n", "JSONDecodeError")
    assert error.where == f"{file}:3"


def test_a_choice_outside_of_a_model_says_where_it_belongs(file: Path) -> None:
    text = "import torch\nfrom retiarii import choice\n\ntorch.nn.Linear(3, choice([1, 2]))\n"
    error = _refused(file, text, "a choice that has not been made")
    assert error.where == f"{file}:4"
    assert "give that to ModelSpace" in str(error.fix)


def test_exit(file: Path) -> None:
    error = _refused(file, "import sys\nsys.exit(3)\n", "SystemExit")
    assert error.where == f"{file}:2"


def test_our_own_error_keeps_its_class_and_gets_the_line(file: Path) -> None:
    file.write_text("from retiarii.mutators.choice import choice\n\nx = choice([])\n")
    with pytest.raises(SpaceError, match="without options") as caught:
        load_space_file(file)
    assert caught.value.where == f"{file}:3"
    assert caught.value.fix == "give at least one option"


def test_keyboard_interrupt_goes_through(file: Path) -> None:
    file.write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_space_file(file)


def test_no_space(file: Path) -> None:
    error = _refused(file, GOOD.replace("space = None", ""), "defines no `space`")
    assert "rt.ModelSpace" in str(error.fix)


def test_no_evaluator_but_another_name(file: Path) -> None:
    error = _refused(file, GOOD.replace("evaluator =", "judge ="), "defines no `evaluator`")
    assert "rename `judge` to `evaluator`" in str(error.fix)
    text = GOOD.replace("evaluator =", "judge = other =")
    error = _refused(file, text, "defines no `evaluator`")
    assert "judge, other" in str(error.fix)


def test_wrong_types(file: Path) -> None:
    _refused(
        file, GOOD.replace("space = None", "space = 3"), "`space` is of type int, not ModelSpace"
    )
    _refused(file, GOOD + "\nevaluator = score", "`evaluator` is of type function, not Evaluator")
    _refused(file, GOOD + "\nevaluator = Function", "the class Function, not an instance")


def test_nothing_else_is_run(file: Path, tmp_path: Path) -> None:
    file.write_text(
        GOOD + f"\nif __name__ == '__main__':\n    open({str(tmp_path / 'ran')!r}, 'w')"
    )
    (tmp_path / "conftest.py").write_text("raise SystemExit")
    load_space_file(file)
    assert not (tmp_path / "ran").exists()
