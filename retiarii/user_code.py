"""Telling the user's own lines from ours and the libraries', for the place in an error."""

from __future__ import annotations

import inspect
import sysconfig
import traceback
from pathlib import Path
from typing import Any

_NOT_THE_USERS = (Path(__file__).parent, Path(sysconfig.get_path("stdlib")))


def users_line(error: BaseException) -> str | None:
    """``file:line`` of the innermost line that the user wrote, of those that led to ``error``."""
    own = [f for f in traceback.extract_tb(error.__traceback__) if is_users(f.filename)]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else None


def defined_at(thing: Any) -> str | None:
    """``file:line`` of a class's or function's definition, where Python knows it."""
    try:
        return f"{inspect.getsourcefile(thing)}:{inspect.getsourcelines(thing)[1]}"
    except (OSError, TypeError):
        return None


def is_users(file: str) -> bool:
    """Whether a file is neither ours nor of the environment: what the user wrote."""
    if file.startswith("<"):
        return False
    path = Path(file)
    return "site-packages" not in path.parts and not any(
        path.is_relative_to(home) for home in _NOT_THE_USERS
    )
