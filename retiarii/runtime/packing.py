"""Packing a space that is in no file for worker processes of this machine."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch.utils.weak import WeakTensorKeyDictionary

from retiarii.errors import RetiariiError
from retiarii.ir.infer import TypeCache
from retiarii.runtime.worker import MemorySource

if TYPE_CHECKING:
    from retiarii.space import ModelSpace
    from retiarii.training.evaluator import Evaluator


def memory_source(space: ModelSpace | None, evaluator: Evaluator) -> MemorySource:
    """Packs a space and an evaluator for workers.

    Raises:
        RetiariiError: something in them cannot be pickled.
    """
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump((space, evaluator))
    except Exception as error:
        raise RetiariiError(
            f"the space or the evaluator cannot be sent to worker processes: {error}",
            where='Experiment(executor="local")',
            fix="define functions and classes at the top level of a file (no lambdas, no "
            'closures); or run it as a file, `retiarii run space.py`; or use executor="inline"',
        ) from error
    return MemorySource(buffer.getvalue())


def _reduce_proxy(proxy: Mapping[Any, Any]) -> Any:
    return (_make_proxy, (dict(proxy),))


def _make_proxy(items: dict[Any, Any]) -> Mapping[Any, Any]:
    return MappingProxyType(items)


def _reduce_memory(memory: Any) -> Any:
    return (type(memory), ())


_REDUCERS: Mapping[type, Callable[[Any], Any]] = MappingProxyType(
    {
        MappingProxyType: _reduce_proxy,
        # What a graph only remembers; a worker finds it out again.
        WeakKeyDictionary: _reduce_memory,
        WeakTensorKeyDictionary: _reduce_memory,
        TypeCache: _reduce_memory,
    }
)


class _Pickler(pickle.Pickler):
    """Knows how to take apart what pickle does not."""

    def reducer_override(self, thing: Any) -> Any:
        reducer = _REDUCERS.get(type(thing))
        return NotImplemented if reducer is None else reducer(thing)
