"""The executors of this machine, by the suite that all executors pass."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from retiarii.runtime.executor import Executor
from retiarii.runtime.inline import InlineExecutor
from retiarii.runtime.local import LocalExecutor
from retiarii.runtime.source import FileSource, load_space_file
from retiarii.search_space import SearchSpace
from retiarii.testing import ExecutorConformance


class TestInline(ExecutorConformance):
    works_in_poll: ClassVar[bool] = True
    survives: ClassVar[bool] = False

    @classmethod
    def make(cls, space_file: Path, directory: Path) -> Executor:
        loaded = load_space_file(space_file)
        space = SearchSpace(loaded.space, loaded.evaluator.hyperparameters())
        return InlineExecutor(space, loaded.evaluator)


class TestLocal(ExecutorConformance):
    @classmethod
    def make(cls, space_file: Path, directory: Path) -> Executor:
        source = FileSource(space_file, load_space_file(space_file).digest)
        return LocalExecutor(source, workers=2)
