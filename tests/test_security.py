"""What docs/security.md says, tried."""

from __future__ import annotations

import ast
import json
import os
import pickle
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import retiarii
from retiarii.errors import FileError, StoreError
from retiarii.experiment import Experiment
from retiarii.result import open_result
from retiarii.runtime.progress import Progress
from retiarii.runtime.source import load_space_file
from retiarii.training.checkpoint import WEIGHTS, Checkpoints, load_weights, save_weights

_PACKAGE = Path(retiarii.__file__).parent

# Whatever turns bytes or text into something that acts: (file, call) -> why it may.
_ALLOWED = {
    ("runtime/source.py", "exec"): "the user's own space file",
    ("plugins.py", "importlib.import_module"): "what the user named: module:Class",
    ("__init__.py", "importlib.import_module"): "modules of this package, by a table",
    ("runtime/worker.py", "pickle.loads"): "in a worker, of what its parent handed to it in memory",
    ("commands/bench.py", "subprocess.Popen"): "a benchmark of the clone, by its name",
    ("export.py", "exec"): "model.py, which was written the moment before, to check it",
    ("export.py", "eval"): "the call of that",
    ("ir/build/module.py", "exec"): "code generated from a graph",
    ("ir/build/module.py", "torch.jit.load"): "a copy of the user's own module, in memory",
    ("ir/build/literals.py", "exec"): "a helper of that, a constant text",
    ("ir/build/literals.py", "eval"): "expressions generated from tensors",
    ("optimizer/program.py", "exec"): "code generated from a plan",
    ("optimizer/memory.py", "exec"): "the same, to measure it",
    ("optimizer/measuring.py", "exec"): "the same",
    ("optimizer/evaluate.py", "eval"): "the same, to fold constants",
    ("optimizer/rules/general.py", "eval"): "the same, to try a rule",
}
_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml"}
_CALLS = {
    "torch.load",
    "torch.jit.load",
    "numpy.load",
    "np.load",
    "importlib.import_module",
    "os.system",
    "os.popen",
}
_BUILTIN = {"eval", "exec", "__import__"}


class TestNoCodeFromOutside:
    def test_only_what_is_listed_turns_data_into_code(self) -> None:
        found = {
            (path.relative_to(_PACKAGE).as_posix(), call)
            for path in _PACKAGE.rglob("*.py")
            if path.relative_to(_PACKAGE).parts[0] != "testing"  # suites: searches use none
            for call in _acting(ast.parse(path.read_text()))
        }
        assert found - _ALLOWED.keys() == set(), "say here why these may"
        assert _ALLOWED.keys() - found == set(), "these are gone"

    @pytest.mark.parametrize(
        "text",
        [
            "import pickle\npickle.load(f)",
            "import pickle as p\np.Unpickler(f)",
            "from pickle import loads as l\nl(b)",
            "import torch\ntorch.load(f)",
            "eval('1')",
            "import builtins\nbuiltins.exec('1')",
            "import yaml\nyaml.load(f)",
            "import numpy as np\nnp.load(f)",
            "connection.recv()",
            "import subprocess\nsubprocess.run(x)",
            "from os import system\nsystem('x')",
        ],
    )
    def test_the_look_itself(self, text: str) -> None:
        assert list(_acting(ast.parse(text)))

    def test_weights_that_are_a_pickle_are_not_loaded(self, tmp_path: Path) -> None:
        (tmp_path / WEIGHTS).write_bytes(_bomb(tmp_path))
        with pytest.raises(FileError, match="damaged"):
            load_weights(tmp_path)
        assert not (tmp_path / "went off").exists()

    def test_a_checkpoint_that_is_a_pickle_is_passed_over(self, tmp_path: Path) -> None:
        made = Checkpoints(tmp_path, "mine")
        made.save(1, {"w": torch.ones(2)}, {})
        whole = made.newest()
        assert whole is not None
        (tmp_path / "checkpoint-00001.safetensors").write_bytes(_bomb(tmp_path))
        assert made.newest() is None
        # Also where the checksum was made to fit.
        body = json.loads((tmp_path / "checkpoint-00001.json").read_bytes())
        assert "tensors" in body
        torch.save({"w": torch.ones(2)}, tmp_path / "checkpoint-00001.safetensors")
        assert made.newest() is None
        assert not (tmp_path / "went off").exists()


class TestTheDirectory:
    def test_only_the_owner_reads_what_is_written(self, epochs_file: Path, tmp_path: Path) -> None:
        """While it runs, and afterwards; with the usual umask, which lets everybody read."""
        loaded = load_space_file(epochs_file)
        out = tmp_path / "out"
        seen: dict[str, int] = {}

        def look(progress: Progress) -> None:
            seen.update(_modes(out))

        before = os.umask(0o022)
        try:
            Experiment(
                loaded.space,
                loaded.evaluator,
                "random",
                trials=2,
                directory=out,
                executor="local",
                confirm=2,
                progress=look,
                source=loaded,
            ).run()
            save_weights(out / "trials" / "0", {"w": torch.ones(1)})
            Checkpoints(out / "trials" / "0", None).save(1, {"w": torch.ones(1)}, {})
        finally:
            os.umask(before)
        seen.update(_modes(out))
        names = {Path(name).name for name in seen}
        assert {"search.db", "search.db-wal", "search.db-shm", "lock", "status.json"} <= names
        assert {WEIGHTS, "checkpoint-00001.json", "checkpoint-00001.safetensors"} <= names
        # What an evaluator of the user's own writes has the rights that it gives.
        theirs = {name for name in seen if Path(name).name in ("state.json", "state.partial")}
        assert theirs
        assert {name: oct(m) for name, m in seen.items() if name not in theirs and m & 0o077} == {}

    def test_the_store_holds_numbers_and_json(self, epochs_file: Path, tmp_path: Path) -> None:
        _search(epochs_file, tmp_path / "out")
        database = sqlite3.connect(tmp_path / "out" / "search.db")
        try:
            tables = [n for (n,) in database.execute("SELECT name FROM sqlite_master")]
            assert "trials" in tables
            kinds = {
                type(value)
                for table in ("meta", "trials", "steps")
                for row in database.execute(f"SELECT * FROM {table}")
                for value in row
            }
            assert kinds <= {int, float, str, type(None)}
            for table, column in (("meta", "value"), ("trials", "decisions"), ("steps", "metrics")):
                for (text,) in database.execute(f"SELECT {column} FROM {table}"):
                    json.loads(text)
            assert [k for (k,) in database.execute("SELECT type FROM sqlite_master")] == [
                "table"
            ] * 3
        finally:
            database.close()

    @pytest.mark.parametrize("column", ["attempt", "same_as", "seed", "lost"])
    def test_a_store_names_no_directory_of_its_own(
        self, epochs_file: Path, tmp_path: Path, column: str
    ) -> None:
        """A trial's directory is named by numbers; a text in their place is refused by all."""
        out = tmp_path / "out"
        _search(epochs_file, out)
        (tmp_path / "victim").mkdir()
        (tmp_path / "victim" / "kept").touch()
        database = sqlite3.connect(out / "search.db")
        database.execute(
            f"UPDATE trials SET {column} = '/../../../victim', state = 'running' WHERE id = 1"
        )
        database.commit()
        database.close()
        loaded = load_space_file(epochs_file)
        with pytest.raises(StoreError, match="a text where a number belongs"):
            open_result(out)
        with pytest.raises(StoreError, match="a text where a number belongs"):
            _search(epochs_file, out)
        with pytest.raises(StoreError, match="a text where a number belongs"):
            Experiment(
                loaded.space,
                loaded.evaluator,
                trials=1,
                directory=tmp_path / "next",
                continue_from=out,
                source=loaded,
            ).run()
        assert (tmp_path / "victim" / "kept").exists()

    def test_decisions_that_are_no_json(self, epochs_file: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        _search(epochs_file, out)
        database = sqlite3.connect(out / "search.db")
        database.execute("UPDATE trials SET decisions = '[[1]]'")
        database.commit()
        database.close()
        with pytest.raises(StoreError, match="damaged"):
            open_result(out)

    def test_a_store_that_is_a_link_is_not_followed(
        self, epochs_file: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "search.db").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StoreError):
            _search(epochs_file, out)
        assert not (tmp_path / "elsewhere").exists()


def test_a_search_with_workers_listens_nowhere(epochs_file: Path, tmp_path: Path) -> None:
    if not Path("/proc/net/tcp").exists():
        pytest.skip("the system does not say who listens")
    loaded = load_space_file(epochs_file)
    before = _listening()
    during: set[str] = set()

    def look(progress: Progress) -> None:
        during.update(_listening())

    Experiment(
        loaded.space,
        loaded.evaluator,
        "random",
        trials=3,
        directory=tmp_path / "out",
        executor="local",
        workers=2,
        progress=look,
        source=loaded,
    ).run()
    assert during - before == set()


def _search(file: Path, out: Path) -> None:
    loaded = load_space_file(file)
    Experiment(
        loaded.space, loaded.evaluator, "random", trials=3, directory=out, source=loaded
    ).run()


def _acting(tree: ast.AST) -> Iterator[str]:
    """Calls that turn data into code, or a message into an object, or start another program."""
    names: dict[str, str] = {}  # as it is called here -> what it is
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        dotted = ast.unparse(node.func)
        first, _, rest = dotted.partition(".")
        full = ".".join(filter(None, [names.get(first, first), rest]))
        module, _, last = full.rpartition(".")
        root = full.partition(".")[0]
        if (
            (full.removeprefix("builtins.") in _BUILTIN)
            or full in _CALLS
            or (root in _MODULES and last.lower() in ("load", "loads", "unpickler", "full_load"))
            or root == "subprocess"
            or (last == "recv" and module)
        ):
            yield full


def _bomb(directory: Path) -> bytes:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (directory / "went off",))

    return pickle.dumps(Bomb())


def _modes(directory: Path) -> dict[str, int]:
    found = {}
    for path in directory.rglob("*"):
        try:
            if path.is_file():
                found[str(path)] = stat.S_IMODE(path.stat().st_mode)
        except FileNotFoundError:  # it was in use for a moment only
            continue
    return found


def _listening() -> set[str]:
    """The sockets at which this process or its children listen."""
    own = str(os.getpid())
    sockets: set[str] = set()
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit():
                continue
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            if own in (entry.name, parent):
                sockets |= {os.readlink(link) for link in (entry / "fd").iterdir()}
        except OSError:  # it has ended
            continue
    lines = [
        line.split()
        for family in ("tcp", "tcp6", "udp", "udp6")
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]
    ]
    return {f[1] for f in lines if f[3] in ("0A", "07") and f"socket:[{f[9]}]" in sockets}
