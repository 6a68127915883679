"""What stops a trace."""

from __future__ import annotations


class Unlowerable(BaseException):
    """The code of a submodule does something that no node stands for.

    A ``BaseException``, so that no ``except Exception`` of the model swallows it.

    Args:
        reason: what it does, one line.
        where: ``file:line`` of the call.
        path: the module path that becomes opaque; the module that is running if ``None``.
        reads: it looks at the numbers in a tensor.
        failed: a torch call raised: the model's own code may be wrong, or not run at all at this
            batch size or in this mode.
        real: without numbers it returns other types: autocast is of a device.
    """

    def __init__(
        self,
        reason: str,
        where: str | None = None,
        path: str | None = None,
        *,
        failed: bool = False,
        reads: bool = False,
        real: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.where = where
        self.path = path
        self.failed = failed
        self.reads = reads
        self.real = real


class Broken(BaseException):
    """The model's own code raised, at this module path: it may be the model's fault or ours.

    Args:
        path: the innermost module that was running.
        error: what was raised.
        where: ``file:line`` of the innermost line of the user's that was running.
    """

    def __init__(self, path: str, error: Exception, where: str | None) -> None:
        super().__init__(str(error))
        self.path = path
        self.error = error
        self.where = where


class NeedsRealTypes(BaseException):
    """An opaque submodule whose result types only a real run can tell."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its class where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
