"""Calls of submodules that were traced before, in this model or in another one of the space.

The candidates of a callable differ in a few submodules. What the others do is played from memory:
the same events, with the same names, so that the trace is the one that running them would make. A
call is the same when the module is alike (`likeness`), stands at the same path, and is called from
the same line, in the same modes, on the same values of the graph, of the same types and strides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from retiarii.ir.node import NodeRecord
from retiarii.ir.tracing.events import Enter, Event, Leave
from retiarii.ir.tracing.likeness import Like, Likenesses
from retiarii.ir.tracing.sizes import Note
from retiarii.ir.tracing.state import ModelState
from retiarii.ir.tracing.values import Entry
from retiarii.ir.types import Ref

if TYPE_CHECKING:
    from retiarii.ir.tracing.recorder import Recorder

_CONSTANTS = (type(None), bool, int, float, complex, str)


class _OddError(Exception):
    """A value that calls from memory do not deal in."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor that a call returned: the graph's value, and what the model may see of it."""

    ref: Ref
    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    gradient: bool
    device: torch.device

    def made(self) -> torch.Tensor:
        made = torch.empty_strided(
            self.shape,
            self.strides,
            dtype=self.dtype,
            device="meta",
            requires_grad=self.gradient,
        )
        return made.clone() if self.gradient else made  # no leaf


@dataclass(frozen=True, slots=True)
class _Given:
    """One of the tensors that the call was given, handed back."""

    number: int


@dataclass(frozen=True, slots=True)
class Call:
    """What a call of a submodule did.

    Attributes:
        events: from its beginning to its end.
        sizes: the sizes that its Python read and used.
        result: what it returned, with `_Tensor` and `_Given` for tensors.
        counts: how names are numbered afterwards.
        entered: the paths of the modules that were called.
    """

    events: tuple[Event, ...]
    sizes: tuple[Note, ...]
    result: Any
    counts: Mapping[str, int]
    entered: frozenset[str]


class Replays:
    """The calls of all models of a space."""

    def __init__(self) -> None:
        self.likenesses = Likenesses()
        self.calls: dict[Any, Call | None] = {}
        # (path, likeness) of what a model had: a call is kept when another model has it, too.
        self.met: set[tuple[str, int]] = set()

    def __len__(self) -> int:
        return len(self.calls) + len(self.met) + len(self.likenesses)


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that may be played, or else kept.

    Attributes:
        path: the module's.
        like: its likeness.
        key: of the call.
        given: the tensors in its arguments.
        first: the number of events before it.
        noted: the number of notes on sizes before it.
        call: what it does, where that is known.
    """

    path: str
    like: Like
    key: Any
    given: tuple[torch.Tensor, ...]
    first: int
    noted: int
    call: Call | None


class Replay:
    """Plays and keeps the calls of one model.

    Args:
        replays: the calls of the models before.
        state: of the traced copy.
    """

    def __init__(self, replays: Replays, state: ModelState) -> None:
        self._replays = replays
        likes = replays.likenesses.all(state)
        found = {(path, like.number) for path, like in likes.items()}
        # Only what another model had: nothing else pays.
        self._likes = {p: like for p, like in likes.items() if (p, like.number) in replays.met}
        replays.met |= found
        self._entered: set[str] = set()
        self._modes = 0

    def begin(self) -> None:
        """Begins a trace."""
        self._entered.clear()
        self._modes = torch._C._len_torch_function_stack() + 1  # the recorder

    def forget(self) -> None:
        """Lets go of the model's modules."""
        self._likes.clear()

    def ask(
        self,
        recorder: Recorder,
        path: str,
        arguments: tuple[Any, Any],
        site: str | None,
        setting: tuple[Any, ...],
    ) -> Asked | None:
        """Whether a call that is about to be made may be played or kept; notes that it is made.

        Args:
            recorder: of the trace.
            path: the module's.
            arguments: args and kwargs.
            site: the user's line.
            setting: what else the trace depends on.
        """
        again = path in self._entered
        self.enter(path)
        like = self._likes.get(path)
        if like is None or again or not self._is_plain() or not like.holds():
            return None
        given: list[torch.Tensor] = []
        try:
            shown = _shown(arguments, recorder, given)
        except _OddError:
            return None
        grad = torch.is_grad_enabled()
        key = (path, like.number, like.modes(), site, grad, setting, shown)
        calls = self._replays.calls
        if key in calls and calls[key] is None:
            return None
        begin = len(recorder.events), len(recorder.sizes.notes)
        return Asked(path, like, key, tuple(given), *begin, calls.get(key))

    def _is_plain(self) -> bool:
        """Whether nothing stands around the call that changes what torch does."""
        return (
            torch._C._len_torch_function_stack() == self._modes
            and not torch._C._len_torch_dispatch_stack()
            and not torch._C._is_any_autocast_enabled()
            and not torch._C._are_functorch_transforms_active()
            and not torch.is_inference_mode_enabled()
        )

    def enter(self, path: str) -> None:
        """Notes that a module is called: what holds it cannot be played as a whole any more."""
        entered = self._entered
        while path not in entered:
            entered.add(path)
            path = path.rpartition(".")[0]

    def play(self, recorder: Recorder, asked: Asked) -> Any:
        """What the call returns, with the trace as if it had been made."""
        call = asked.call
        assert call is not None
        recorder.events += call.events
        recorder.sizes.notes += call.sizes
        recorder.names.take((e.name for e in call.events if isinstance(e, NodeRecord)), call.counts)
        self._entered |= call.entered
        return _again(call.result, recorder, asked.given)

    def keep(self, recorder: Recorder, asked: Asked, before: tuple[int, ...], result: Any) -> None:
        """Keeps a call that was made, if it did nothing that memory could not do."""
        calls = self._replays.calls
        try:
            calls[asked.key] = self._made(recorder, asked, before, result)
        except _OddError:
            calls[asked.key] = None

    def state(self, recorder: Recorder, asked: Asked) -> tuple[int, ...]:
        """What a call must leave as it is."""
        entries = map(recorder.values.find, asked.given)
        versions = [-1 if entry is None else entry.storage.version for entry in entries]
        return (len(recorder.sources.constants), *versions)

    def _made(self, recorder: Recorder, asked: Asked, before: tuple[int, ...], result: Any) -> Call:
        path, inside = asked.path, f"{asked.path}." if asked.path else ""
        events = tuple(recorder.events[asked.first :])
        names = {e.name for e in events if isinstance(e, NodeRecord)}
        paths = {e.path for e in events if isinstance(e, Enter | Leave)}
        own = all(p == path or p.startswith(inside) for p in paths | names)
        if not own or self.state(recorder, asked) != before or not asked.like.holds():
            raise _OddError
        storages = {id(_entry(recorder, t).storage) for t in asked.given}
        frozen = _frozen(result, recorder, asked.given, names, storages)
        entered = frozenset(p for p in self._entered if p == path or p.startswith(inside))
        sizes = tuple(recorder.sizes.notes[asked.noted :])
        return Call(events, sizes, frozen, recorder.names.counts(path), entered)


def _entry(recorder: Recorder, tensor: torch.Tensor) -> Entry:
    """The entry of a tensor that says all about itself."""
    entry = recorder.values.find(tensor)
    plain = (
        entry is not None
        and type(tensor) is torch.Tensor
        and not tensor.__dict__
        and tensor.is_meta
        and entry.version == entry.storage.version
        and entry.storage.lasting is None
        and entry.storage.poisoned is None
        and not entry.storage.concrete
    )
    if entry is None or not plain:
        raise _OddError
    return entry


def _shown(value: Any, recorder: Recorder, given: list[torch.Tensor]) -> Any:
    """Arguments as a key; their tensors are added to ``given``."""
    kind = type(value)
    if kind in _CONSTANTS:
        return kind, repr(value)
    if kind is tuple:
        return tuple([_shown(part, recorder, given) for part in value])
    if kind is dict:  # of keyword arguments
        return tuple([(name, _shown(part, recorder, given)) for name, part in value.items()])
    if not isinstance(value, torch.Tensor):
        raise _OddError
    entry = _entry(recorder, value)
    given.append(value)
    numbers = [i for i, t in enumerate(given) if t is value]
    return (
        *(entry.ref, value.shape, value.stride(), value.storage_offset(), value.dtype),
        *(value.requires_grad, value.is_leaf, str(entry.device), numbers[0]),
    )


def _frozen(
    value: Any,
    recorder: Recorder,
    given: tuple[torch.Tensor, ...],
    names: set[str],
    storages: set[int],
) -> Any:
    """A result as it is kept.

    Args:
        names: of the nodes that the call made.
        storages: of its arguments, and of what was found already: no two may share memory.
    """
    if type(value) is tuple:
        return tuple([_frozen(part, recorder, given, names, storages) for part in value])
    if type(value) in _CONSTANTS:
        return value
    for number, tensor in enumerate(given):
        if tensor is value:
            return _Given(number)
    if not isinstance(value, torch.Tensor):
        raise _OddError
    entry = _entry(recorder, value)
    if entry.parent is not None or entry.ref.node not in names or id(entry.storage) in storages:
        raise _OddError
    if value.storage_offset() or (value.is_leaf and value.requires_grad):
        raise _OddError
    storages.add(id(entry.storage))
    return _Tensor(
        entry.ref, value.shape, value.stride(), value.dtype, value.requires_grad, entry.device
    )


def _again(value: Any, recorder: Recorder, given: tuple[torch.Tensor, ...]) -> Any:
    if isinstance(value, _Tensor):
        made = value.made()
        recorder.values.add(made, value.ref, value.device)
        return made
    if isinstance(value, _Given):
        return given[value.number]
    if type(value) is tuple:
        return tuple([_again(part, recorder, given) for part in value])
    return value
