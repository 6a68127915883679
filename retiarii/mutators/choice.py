"""Choices: what may be asked, the active chooser, and `choice()` itself."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar, overload

from retiarii.errors import SpaceError
from retiarii.user_code import is_users

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Categorical:
    """One of ``n`` options; a raw value is an index."""

    n: int


@dataclass(frozen=True, slots=True)
class Real:
    """A number in ``[low, high]``, uniform, or uniform in its logarithm."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number in ``[low, high]``, both included."""

    low: int
    high: int
    log: bool = False


Domain = Categorical | Real | Integer
Raw = int | float
Chooser = Callable[[str, Domain], Raw]


def check_raw(label: str, domain: Domain, raw: Raw) -> Raw:
    """``raw``, or a SpaceError when it lies outside of ``domain``."""
    match domain:
        case Categorical(n):
            fits = isinstance(raw, int) and 0 <= raw < n
        case Integer(low, high):
            fits = isinstance(raw, int) and low <= raw <= high
        case Real(low, high):
            fits = low <= raw <= high
    if not fits:
        raise SpaceError(
            f"{raw!r} is outside of {domain}",
            where=f"decision {label!r}",
            fix="a strategy must answer with an index, or a number in the range",
        )
    return raw


@dataclass(frozen=True, slots=True)
class Decision:
    """One label and the value chosen for it.

    Attributes:
        label: the full label, scoped by mutator and target.
        domain: what could be chosen.
        raw: an index into the options, or the number itself.
        value: the option chosen: any Python value.
    """

    label: str
    domain: Domain
    raw: Raw
    value: Any = field(compare=False)

    @property
    def shown(self) -> str:
        """The value as text that is the same in every process (no addresses)."""
        return show(self.value)


def show(value: Any) -> str:
    """A value as stable, readable text: no memory addresses."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple | list):
        inner = ", ".join(show(v) for v in value)
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    if callable(value) and hasattr(value, "__name__"):
        return str(value.__name__)
    text = " ".join(repr(value).split())
    return type(value).__name__ if " at 0x" in text else text


class Numbered(int):
    """An option's number, which shows what it stands for; else it is that number."""

    _name: str

    @staticmethod
    def of(number: int, name: str) -> Numbered:
        made = Numbered(number)
        made._name = name
        return made

    def __repr__(self) -> str:
        return self._name

    def __str__(self) -> str:
        return int.__repr__(self)

    def __reduce__(self) -> Any:
        return Numbered.of, (int(self), self._name)


@dataclass(frozen=True)
class Description:
    """A choice that is described now and made later, once a trial (a hyper-parameter).

    Attributes:
        label: its label; ``None`` takes the name of the field that holds it.
        domain: what may be chosen.
        options: the values behind a categorical domain's indices, else ``None``.
    """

    domain: Domain
    options: tuple[Any, ...] | None = None
    label: str | None = None

    def value(self, raw: Raw) -> Any:
        """The value that a raw answer stands for."""
        return self.options[int(raw)] if self.options is not None else raw

    def bounds(self) -> tuple[Any, ...]:
        """The values that a range check must accept: all options, or both ends."""
        if self.options is not None:
            return self.options
        assert not isinstance(self.domain, Categorical)
        return (self.domain.low, self.domain.high)

    def __index__(self) -> int:
        self._refuse()

    def __int__(self) -> int:
        self._refuse()

    def __float__(self) -> float:
        self._refuse()

    def __bool__(self) -> bool:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise SpaceError(
            f"{self!r} is a choice that has not been made, used where a plain value is needed",
            fix="give ModelSpace a callable that makes the model, so that choices in __init__ "
            "return plain values; or use a Mutator",
        )

    def __repr__(self) -> str:
        if self.options is not None:
            return f"choice([{', '.join(show(o) for o in self.options)}])"
        assert not isinstance(self.domain, Categorical)
        name = "randint" if isinstance(self.domain, Integer) else "uniform"
        return f"{'log' if self.domain.log else ''}{name}({self.domain.low}, {self.domain.high})"


class Recorder:
    """Asks a chooser, and keeps what was decided; the memory of one replay.

    The same label with the same options is the same decision, answered without asking again.
    """

    def __init__(self, chooser: Chooser) -> None:
        self._chooser = chooser
        self._made: dict[str, tuple[Decision, Description]] = {}

    @property
    def decisions(self) -> tuple[Decision, ...]:
        return tuple(decision for decision, _ in self._made.values())

    @property
    def questions(self) -> tuple[tuple[Decision, Description], ...]:
        """Each decision with what was asked, in order."""
        return tuple(self._made.values())

    def ask(self, label: str, description: Description) -> Any:
        """The value decided for ``label``.

        Raises:
            SpaceError: the label was asked before with other options.
        """
        if label in self._made:
            decision, before = self._made[label]
            if before is not description:
                _check_same_options(label, before, description)
            # The options of this call, not of the first: modules are made anew at every place.
            return description.value(decision.raw)
        raw = self._answer(label, description)
        value = description.value(raw)
        self._made[label] = (Decision(label, description.domain, raw, value), description)
        return value

    def made(self, label: str) -> Raw | None:
        """The raw answer given for ``label`` so far, if any."""
        return self._made[label][0].raw if label in self._made else None

    def _answer(self, label: str, description: Description) -> Raw:
        return check_raw(label, description.domain, self._chooser(label, description.domain))


def _check_same_options(label: str, one: Description, two: Description) -> None:
    """Raises SpaceError unless both offer the same; options are compared as they are shown."""
    if one.domain == two.domain:
        options, others = one.options, two.options
        if options is None or others is None or all(map(_is_text_or_number, options)):
            if options == others:
                return
        elif [show(o) for o in options] == [show(o) for o in others]:
            return
    raise SpaceError(
        f"label {label!r} is asked with two different lists of options: {one!r} and {two!r}",
        where=f"decision {label!r}",
        fix="give each list its own label, or ask with equal options to share one",
    )


def _is_text_or_number(option: Any) -> bool:
    return type(option) in (str, int, float, Numbered)


_active: ContextVar[Recorder | None] = ContextVar("retiarii_recorder", default=None)


@contextmanager
def recording(recorder: Recorder) -> Iterator[Recorder]:
    """Within it, `choice` and its kin return plain values, decided by ``recorder``."""
    token = _active.set(recorder)
    try:
        yield recorder
    finally:
        _active.reset(token)


def describe_options(options: Sequence[Any], label: str | None) -> Description:
    """A categorical description, checked.

    Raises:
        SpaceError: no options, or not a sequence.
    """
    where = f"choice {label!r}" if label else None
    if isinstance(options, str | bytes) or not isinstance(options, Sequence):
        raise SpaceError(
            f"options must be a list or tuple, not {type(options).__name__}",
            where=where,
            fix="write choice([a, b, c], label=...)",
        )
    if not options:
        raise SpaceError("a choice without options", where=where, fix="give at least one option")
    return Description(Categorical(len(options)), tuple(options), label)


def choice(options: Sequence[T], label: str | None = None) -> T:
    """One of ``options``.

    Inside a model's ``__init__`` (``ModelSpace(callable)``) it returns the chosen option itself,
    a plain Python value. Anywhere else it returns a description, for an optimizer's or an
    evaluator's field: the choice is then made once a trial.

    Args:
        options: any Python values, at least one.
        label: names the decision; the same label with the same options is one decision.
            Needed inside ``__init__``.

    Raises:
        SpaceError: no options; no label inside ``__init__``; a label with two lists of options.
    """
    description = describe_options(options, label)
    answer: T = _decide_or_describe(description)
    return answer


ValueChoice = choice


def uniform(low: float, high: float, label: str | None = None) -> Any:
    """A number in ``[low, high]``, every one as likely."""
    return _decide_or_describe(_numeric(Real, low, high, False, label))


def loguniform(low: float, high: float, label: str | None = None) -> Any:
    """A number in ``[low, high]``, every order of magnitude as likely; ``low`` above 0."""
    return _decide_or_describe(_numeric(Real, low, high, True, label))


def randint(low: int, high: int, label: str | None = None, *, log: bool = False) -> Any:
    """A whole number in ``[low, high]``, both included."""
    return _decide_or_describe(_numeric(Integer, low, high, log, label))


@overload
def _numeric(
    kind: type[Real], low: float, high: float, log: bool, label: str | None
) -> Description: ...
@overload
def _numeric(
    kind: type[Integer], low: int, high: int, log: bool, label: str | None
) -> Description: ...
def _numeric(kind: Any, low: Any, high: Any, log: bool, label: str | None) -> Description:
    wanted = int if kind is Integer else (int, float)
    numbers = all(isinstance(v, wanted) and not isinstance(v, bool) for v in (low, high))
    if not numbers or not all(math.isfinite(v) for v in (low, high)) or low > high:
        raise SpaceError(
            f"a range must have finite numbers with low <= high, not {low!r} to {high!r}",
            where=f"choice {label!r}" if label else None,
            fix="give the lower bound first; randint takes whole numbers",
        )
    if log and low <= 0:
        raise SpaceError(
            f"a logarithmic range must begin above 0, not at {low!r}",
            where=f"choice {label!r}" if label else None,
            fix="raise the lower bound, or use uniform",
        )
    return Description(kind(low, high, log), None, label)


def _caller() -> str | None:
    """The user's line that asked."""
    for frame in reversed(traceback.extract_stack()):
        if is_users(frame.filename):
            return f"{frame.filename}:{frame.lineno}"
    return None


def _decide_or_describe(description: Description) -> Any:
    recorder = _active.get()
    if recorder is None:
        return description
    if description.label is None:
        raise SpaceError(
            f"{description!r} inside a model has no label",
            where=_caller(),
            fix='name it: rt.choice([...], label="width")',
        )
    return recorder.ask(description.label, description)
