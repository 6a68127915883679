from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def space_file(epochs_file: Path) -> Path:
    return epochs_file


@pytest.fixture
def cohort_file(space_file: Path) -> Path:
    """The same search, whose evaluator takes trials together: it runs an epoch of each in turn."""
    text = space_file.read_text()
    assert text.count("merges = False") == 1
    space_file.write_text(text.replace("merges = False", "merges = True"))
    return space_file
