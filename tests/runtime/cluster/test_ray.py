"""The executor for clusters, on a cluster of one machine; where Ray is not installed, skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from retiarii.runtime.cluster.executor import RayExecutor
from retiarii.runtime.executor import Executor
from retiarii.runtime.source import FileSource, load_space_file
from retiarii.testing import ExecutorConformance

pytest.importorskip("ray", reason="Ray is not installed")


class TestRay(ExecutorConformance):
    @classmethod
    def make(cls, space_file: Path, directory: Path) -> Executor:
        source = FileSource(space_file, load_space_file(space_file).digest)
        return RayExecutor(source, directory, workers=2)


class TestRayWithoutSharedFiles(ExecutorConformance):
    """Checkpoints go to the workers, and come back, through Ray."""

    @classmethod
    def make(cls, space_file: Path, directory: Path) -> Executor:
        source = FileSource(space_file, load_space_file(space_file).digest)
        return RayExecutor(source, directory, workers=2, sends=True)
