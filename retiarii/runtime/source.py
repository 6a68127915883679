"""The user's file: loading it, and saying what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any

from retiarii.errors import FileError, RetiariiError, nearest
from retiarii.mutators.choice import Description
from retiarii.runtime.identity import definitions, local_files
from retiarii.space import ModelSpace
from retiarii.training.evaluator import Evaluator

# Set on the modules that a user's file imported from its own folder.
_MARK = "__retiarii_folder__"

_A_SPACE = "rt.ModelSpace(model, example_inputs=...)"
_AN_EVALUATOR = "rt.Supervised(...) or rt.Function(fn)"


@dataclass(frozen=True)
class Loaded:
    """What a space file holds.

    Attributes:
        space: its ``space``; ``None`` where only hyper-parameters are searched.
        evaluator: its ``evaluator``.
        path: the file, in full.
        definitions: a hash for each definition of the file and of what it imported from its
            own folder.
        objectives, constraints: its own of these names, as `Experiment` takes them, or ``None``.
    """

    space: ModelSpace | None
    evaluator: Evaluator
    path: Path
    definitions: dict[str, str]
    objectives: Any = None
    constraints: Any = None

    @property
    def digest(self) -> str:
        """One hash of all definitions."""
        text = json.dumps(self.definitions, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class FileSource:
    """A space file that other processes load for themselves.

    Attributes:
        path: the file.
        digest: what the file held when the search began.
    """

    path: Path
    digest: str

    def load(self) -> Loaded:
        """Loads the file.

        Raises:
            FileError: it cannot be loaded, or has changed since the search began.
        """
        loaded = load_space_file(self.path)
        if loaded.digest != self.digest:
            raise FileError(
                "the file has changed while the search was running",
                where=str(self.path),
                fix="put the former version back, and run the same command to resume",
            )
        return loaded


def load_space_file(path: str | Path) -> Loaded:
    """Runs a user's Python file and takes ``space`` and ``evaluator`` from it.

    The file's folder is put on ``sys.path``: first while the file runs, so that it finds the
    modules beside it, and last afterwards, so that functions which import later find them too.

    Raises:
        FileError: not there, not Python, a syntax error, an exception while it runs, or
            ``space`` or ``evaluator`` missing or of the wrong type.
        RetiariiError: what retiarii itself raised in it, with the file and line.
    """
    file = _check_path(Path(path))
    code = _compile(file)
    module = ModuleType(_module_name(file))
    module.__file__ = str(file)
    with _importing_from(file.parent):
        # Classes of the file are found again by pickle and inspect only if it is registered.
        sys.modules[module.__name__] = module
        try:
            _run(code, module, file)
            space = _find(module, file, "space", ModelSpace, _A_SPACE)
            evaluator = _find(module, file, "evaluator", Evaluator, _AN_EVALUATOR)
        except BaseException:
            sys.modules.pop(module.__name__, None)
            raise
        files = local_files(file)
        _mark_modules({str(f) for f in files[1:]}, file.parent)
    given = [_given(module, name) for name in ("objectives", "constraints")]
    return Loaded(space, evaluator, file, definitions(files, file.parent), *given)


def _run(code: CodeType, module: ModuleType, file: Path) -> None:
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        raise _explain(error, file) from error


def _check_path(path: Path) -> Path:
    if not path.exists():
        siblings = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise FileError(
            "there is no such file",
            where=str(path),
            fix=nearest(path.name, siblings)
            if siblings
            else "give the path of a Python file that defines `space` and `evaluator`",
        )
    if path.is_dir():
        raise FileError(
            "this is a folder, not a file", where=str(path), fix=f"give {path / 'space.py'}"
        )
    if path.suffix != ".py":
        raise FileError(
            "this is not a Python file",
            where=str(path),
            fix="give a .py file that defines `space` and `evaluator`",
        )
    return path.resolve()


def _compile(file: Path) -> CodeType:
    try:
        text = file.read_bytes()
    except OSError as error:
        raise FileError(
            f"the file cannot be read: {error.strerror}", where=str(file), fix="check its rights"
        ) from error
    try:
        code: CodeType = compile(text, str(file), "exec", dont_inherit=True)
    except SyntaxError as error:
        shown = f": {error.text.strip()}" if error.text else ""
        raise FileError(
            f"syntax error: {error.msg}{shown}",
            where=f"{file}:{error.lineno or 1}",
            fix="correct this line",
        ) from error
    except ValueError as error:  # null bytes
        raise FileError(
            f"this is not Python text: {error}", where=str(file), fix="save it as UTF-8 text"
        ) from error
    return code


def _module_name(file: Path) -> str:
    tag = hashlib.blake2b(str(file).encode(), digest_size=4).hexdigest()
    return f"retiarii_file_{file.stem}_{tag}"


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    entry = str(folder)
    # A helper module is read again, and never taken from another file's folder.
    for name in [n for n, m in sys.modules.items() if hasattr(m, _MARK)]:
        del sys.modules[name]
    while entry in sys.path:
        sys.path.remove(entry)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
        sys.path.append(entry)


def _mark_modules(files: set[str], folder: Path) -> None:
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) in files:
            setattr(module, _MARK, str(folder))


def _is_users(file: Path, folder: Path) -> bool:
    """Whether it is a module beside the space file, and not of an environment below it."""
    inner = file.relative_to(folder).parts
    return (
        "site-packages" not in inner
        and not file.is_relative_to(sys.prefix)
        and not file.is_relative_to(Path(__file__).parents[1])
        and not any(part.startswith(".") for part in inner)
    )


def _explain(error: BaseException, file: Path) -> RetiariiError:
    where = _place(error.__traceback__, file)
    if isinstance(error, RetiariiError):
        inner = f"{error.where} ({where})" if error.where else where
        return type(error)(error.cause, where=inner, fix=error.fix)
    if isinstance(error, SyntaxError):  # in a module that the file imports
        return FileError(
            f"syntax error: {error.msg}",
            where=f"{error.filename}:{error.lineno or 1}",
            fix="correct this line",
        )
    if isinstance(error, ImportError):
        missing = error.name or "the module"
        return FileError(
            f"an import failed: {error}",
            where=where,
            fix=f"install {missing!r} in this environment ({sys.executable} -m pip install ...), "
            "or correct its name",
        )
    if isinstance(error, SystemExit):
        return FileError(
            f"the file ended the program: SystemExit({error.code!r})",
            where=where,
            fix='put what should not run here under `if __name__ == "__main__":`',
        )
    if f"type {Description.__name__}" in str(error):  # torch refuses what it cannot turn to a size
        return FileError(
            "a choice that has not been made is used where a plain value is needed: "
            f"{type(error).__name__}: {error}",
            where=where,
            fix="make the model in a function or class, and give that to ModelSpace: "
            "rt.choice returns plain values in it; or use a Mutator",
        )
    return FileError(
        f"the file raised {type(error).__name__}: {error}",
        where=where,
        fix=f"run `python {file.name}` by itself to see it all",
    )


def _place(trace: TracebackType | None, file: Path) -> str:
    """The innermost line of the user's own code: this file, or another of its folder."""
    frames = traceback.extract_tb(trace)
    own = [f for f in frames if f.filename == str(file)]
    beside = [
        f
        for f in frames
        if Path(f.filename).is_relative_to(file.parent) and _is_users(Path(f.filename), file.parent)
    ]
    found = beside or own
    return f"{found[-1].filename}:{found[-1].lineno}" if found else str(file)


def _given(module: ModuleType, name: str) -> Any:
    """What the file says; a function or a module of that name is something else."""
    value = vars(module).get(name)
    return value if isinstance(value, Mapping | str | list | tuple) else None


def _find(module: ModuleType, file: Path, name: str, kind: type[Any], make: str) -> Any:
    value = vars(module).get(name)
    if isinstance(value, kind):
        return value
    if kind is ModelSpace and name in vars(module) and value is None:
        return None
    right = [n for n, v in vars(module).items() if isinstance(v, kind) and not n.startswith("_")]
    if len(right) == 1:
        fix = f"rename `{right[0]}` to `{name}`: it is a {kind.__name__}"
    elif right:
        fix = f"name one of these `{name}`: {', '.join(right)}"
    else:
        fix = f"write `{name} = {make}` at the top level of the file"
    if name not in vars(module):
        cause = f"the file defines no `{name}`"
    elif isinstance(value, type) and issubclass(value, kind):
        cause = f"`{name}` is the class {value.__name__}, not an instance of it"
    else:
        cause = f"`{name}` is of type {type(value).__name__}, not {kind.__name__}"
    raise FileError(cause, where=str(file), fix=fix)
