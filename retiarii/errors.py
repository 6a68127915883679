"""Errors that a user can cause: one line of cause, one of place, one of what to do."""

from __future__ import annotations

import errno
from typing import Any


class RetiariiError(Exception):
    """Base of every error that a user can cause.

    Args:
        cause: what happened, one line.
        where: the place: a node path, or ``file:line``; ``None`` where there is none.
        fix: what to do about it, one line.
    """

    def __init__(self, cause: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.cause = cause
        self.where = where
        self.fix = fix
        super().__init__(cause, where, fix)

    def __str__(self) -> str:
        lines = [self.cause]
        if self.where:
            lines.append(f"  at: {self.where}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.cause, self.where, self.fix))


def _rebuild(
    kind: type[RetiariiError], cause: str, where: str | None, fix: str | None
) -> RetiariiError:
    return kind(cause, where=where, fix=fix)


class GraphError(RetiariiError):
    """An edit or a text that would not leave a graph that verifies; nothing was changed."""


class ShapeError(GraphError):
    """Shapes that cannot be made to fit, after resizing what can be resized."""


class ParseError(RetiariiError):
    """A model that does not run on its example inputs."""


class SpaceError(RetiariiError):
    """A space that is not well formed: targets, options, labels, frozen decisions."""


class InfeasibleError(SpaceError):
    """Decisions that lead to no model; a search skips them.

    Attributes:
        decisions: those made until it was noticed, where a search noticed it.
    """

    decisions: tuple[Any, ...] = ()


class MergeError(RetiariiError):
    """Models that cannot be merged, or a merged model used otherwise than its models."""


class EvaluatorError(RetiariiError):
    """Data, loss, metric, optimizer or schedule that cannot be used as given."""


class StrategyError(RetiariiError):
    """A strategy that does not exist, or cannot search this space."""


class SchedulerError(RetiariiError):
    """A scheduler that does not exist, or cannot work for this search."""


class ObjectiveError(RetiariiError):
    """An objective or a limit that is not written right, is not measured, or nobody reports."""


class StoreError(RetiariiError):
    """The experiment's directory: in use, not writable, or of another search."""


class FileError(RetiariiError):
    """A user's file that is missing or cannot be loaded."""


class TrialError(RetiariiError):
    """One model failed (NaN loss, exception in user code): a failed trial, not a failed search."""


class DiskError(TrialError):
    """A disk that takes nothing more: no trial is at fault, and the search ends until it does."""


#: The system's errors that are a disk's, and no file's or program's.
DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})


# Known words that are told where none is near; a table of ops has hundreds.
_TOLD = 16


def nearest(word: str, known: list[str], noun: str = "") -> str:
    """What to try instead of ``word``, for the last line of an error.

    Args:
        word: what is unknown.
        known: what there is.
        noun: what these are, in the plural; empty where it goes without saying.

    Returns:
        ``nearest labels: 'a', 'b'``, or ``known labels: ...`` where none is like it.
    """
    import difflib

    close = difflib.get_close_matches(word, known, n=3, cutoff=0.4)
    told = close or sorted(set(known))[:_TOLD]
    more = 0 if close else len(set(known)) - len(told)
    head = " ".join(filter(None, ["nearest" if close else "known", noun]))
    return f"{head}: {', '.join(map(repr, told))}" + (f" and {more} more" if more else "")
