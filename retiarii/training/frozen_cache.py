"""Runs the frozen part of models once over all samples, and keeps what it returns on disk.

Transfer learning runs a frozen backbone over the same samples in every epoch of every trial. What
it returns for a sample never changes. So it is computed once in the whole search; from then on
models begin at the first layer that trains. Results are the same, up to rounding.

Nothing is kept where that could change a result: see `retiarii.optimizer.cut` for what is frozen,
`retiarii.training.repeatability` for the samples; and each value that is kept must be the sample's
own, whatever batch it is in, which is tried on real data.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from retiarii.optimizer.merged import MergedModel
from retiarii.optimizer.prefix import FrozenPrefix, frozen_prefix
from retiarii.training.cohort.failure import reraise_memory
from retiarii.training.cohort.part import Attached, Part
from retiarii.training.data import Source
from retiarii.training.frozen_store import FrozenStore, Writer, storable
from retiarii.training.loop import AMP, Task
from retiarii.training.readers import Batch, MemoryReader
from retiarii.training.repeatability import Repeatable, digest_text, flat, look_at
from retiarii.training.sampling import Plan
from retiarii.training.structure import caller, float_dtype, map_tensors, place
from retiarii.training.trial import describe_error

DEFAULT_BYTES: Final = 4 << 30
_FORMAT: Final = "1"
# How far a batch may be from its halves, as a part of the largest number in it: by rounding.
_WITHIN: Final = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 5e-2,
}


class FrozenCache:
    """What is kept for one pair of training and validation data.

    Args:
        limit: bytes on disk.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._looked: dict[str, Repeatable | str] = {}
        self._kept: dict[tuple[Path, str], Tensor] = {}
        self._said: set[str] = set()
        self._own: Path | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return (FrozenCache, (self._limit,))  # another process opens the files by itself

    def attach(
        self,
        merged: MergedModel,
        part: Part,
        task: Task,
        *,
        directory: Path | None,
        say: Callable[[str], None],
    ) -> Attached:
        """Sources for a cohort that begin where its frozen part ends; left in training mode.

        Args:
            merged: on its device.
            part: one of its models: says how they take their inputs, and how they train.
            task: what they are trained for.
            directory: the search's; ``None`` keeps nothing beyond this process.
            say: is told, once, why nothing is kept.
        """
        store = FrozenStore(self._place(directory), self._limit)
        sources = {True: task.train, False: task.val}
        rest: dict[bool, Callable[[Sequence[Tensor]], list[Tensor]]] = {}
        for training, source in sources.items():
            try:
                prefix = frozen_prefix(merged, training)
                found: Source | str = (
                    prefix
                    if isinstance(prefix, str)
                    else _Keeping(self, store, prefix, merged, part, source).source()
                )
            except Exception as error:
                # What is wrong with data or models, training will find out, and say.
                reraise_memory(error)
                found = describe_error(error).splitlines()[0]
            if isinstance(found, str):
                self._say(f"cache_frozen: nothing is kept of {source.name}: {found}", say)
                continue
            assert isinstance(prefix, FrozenPrefix)
            sources[training], rest[training] = found, prefix.rest
        merged.train()
        return Attached(replace(task, train=sources[True], val=sources[False]), rest)

    def look(self, source: Source) -> Repeatable | str:
        """Whether its samples are always the same; found out once."""
        if source.name not in self._looked:
            self._looked[source.name] = look_at(source)
        return self._looked[source.name]

    def open(self, store: FrozenStore, keys: Sequence[str]) -> dict[str, Tensor]:
        """Those of these that are there; each is checked once."""
        found = {}
        for key in keys:
            tensor = self._kept.get((store.directory, key))
            if tensor is None:
                tensor = store.open(key)
            if tensor is not None:
                found[key] = self._kept[store.directory, key] = tensor
        return found

    def _say(self, text: str, say: Callable[[str], None]) -> None:
        if text not in self._said:
            self._said.add(text)
            say(text)

    def _place(self, directory: Path | None) -> Path:
        if directory is not None:
            return directory
        if self._own is None:
            self._own = Path(tempfile.mkdtemp(prefix="retiarii-frozen-"))
            weakref.finalize(self, shutil.rmtree, self._own, ignore_errors=True)
        return self._own


class _KeptReader(MemoryReader):
    """Values that have their type already: that which the frozen part returned."""

    def read(
        self, plan: Plan, device: torch.device, dtype: torch.dtype | None, seed: int
    ) -> Iterator[Batch]:
        del dtype
        return super().read(plan, device, None, seed)


class _UnlikeError(Exception):
    """A batch whose samples are of another shape than those before."""


class _Keeping:
    """One source and one prefix: opens what is kept, and makes what is not."""

    def __init__(
        self,
        cache: FrozenCache,
        store: FrozenStore,
        prefix: FrozenPrefix,
        merged: MergedModel,
        part: Part,
        source: Source,
    ) -> None:
        self._cache = cache
        self._store = store
        self._prefix = prefix
        self._merged = merged
        self._module = part.module
        self._settings = part.settings
        self._source = source
        self._dtype = float_dtype(part.module)

    def source(self) -> Source | str:
        """The source that gives what is kept; or why nothing is."""
        look = self._cache.look(self._source)
        if isinstance(look, str):
            return look
        keys = self._keys(look)
        found = self._cache.open(self._store, keys)
        if not found.keys() >= set(keys):
            trouble = self._make(keys)
            if trouble is not None:
                return trouble
            found = self._cache.open(self._store, keys)
            if not found.keys() >= set(keys):
                return "what was written could not be read back"
        columns = [found[key] for key in keys]
        whole = self._source.whole
        values = len(self._prefix.values)
        if whole is None:
            inputs = columns[: values + len(self._prefix.reads)]
            left = iter(columns[len(inputs) :])
            targets = map_tensors(lambda _: next(left), look.targets)
        else:
            cpu = torch.device("cpu")
            given = self._inputs(place(whole[0], cpu, self._dtype)) if self._prefix.reads else []
            inputs = [*columns, *(given[i] for i in self._prefix.reads)]
            targets = place(whole[1], cpu, self._dtype)
        reader = _KeptReader(tuple(inputs), targets)
        return Source(self._source.name, self._source.sampling, reader)

    def _keys(self, look: Repeatable) -> list[str]:
        """A name for each tensor that is kept, by all that it follows from."""
        device = self._settings.device.type
        precise = (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
        common = (
            _FORMAT,
            look.fingerprint,
            torch.__version__,
            f"{device} {self._dtype} {self._settings.amp} {precise if device == 'cuda' else ''}",
        )
        names = [f"value {value.digest}" for value in self._prefix.values]
        if self._source.whole is None:
            names += [f"input {number}" for number in self._prefix.reads]
            names += [f"target {number}" for number in range(len(flat(look.targets)))]
        return [digest_text(*common, name) for name in names]

    # --- making -----------------------------------------------------------------------------------

    def _make(self, keys: Sequence[str]) -> str | None:
        """Computes what is missing, for all samples. Returns why it could not."""
        try:
            with self._store.locked():
                # Another process may have made it while we waited.
                found = self._cache.open(self._store, keys)
                missing = [key for key in dict.fromkeys(keys) if key not in found]
                return self._fill(keys, missing) if missing else None
        except _UnlikeError:
            return "samples are not all of one shape"
        except OSError as error:
            return f"it cannot be written: {error.strerror or error}"

    def _fill(self, keys: Sequence[str], missing: Sequence[str]) -> str | None:
        length = len(self._source)
        wanted = [keys.index(key) for key in missing]
        with ExitStack() as stack:
            writers: list[Writer] = []
            rows: list[tuple[Any, ...]] = []
            for batch in self._batches():
                tensors = self._columns(batch)
                if not writers:
                    trouble = self._unfit(batch) or self._too_big([tensors[i] for i in wanted])
                    if trouble is not None:
                        return trouble
                    rows = [(t.shape[1:], t.dtype) for t in tensors]
                    for key, i in zip(missing, wanted, strict=True):
                        shape = (length, *tensors[i].shape[1:])
                        writer = self._store.writer(key, shape, tensors[i].dtype)
                        writers.append(stack.enter_context(writer))
                if rows != [(t.shape[1:], t.dtype) for t in tensors]:
                    raise _UnlikeError
                for writer, i in zip(writers, wanted, strict=True):
                    writer.write(tensors[i])
        return None

    def _batches(self) -> Iterator[Batch]:
        source, settings = self._source, self._settings
        full, rest = divmod(len(source), source.sampling.batch_size or settings.batch_size)
        size = source.sampling.batch_size or settings.batch_size
        plan = Plan(None, (size,) * full + ((rest,) if rest else ()))
        return source.read(plan, settings.device, self._dtype, 0)

    def _columns(self, batch: Batch) -> list[Tensor]:
        inputs = self._inputs(batch.inputs)
        values = self._head(inputs)
        if self._source.whole is not None:
            return values
        return [*values, *(inputs[i] for i in self._prefix.reads), *flat(batch.targets)]

    def _inputs(self, value: Any) -> list[Tensor]:
        """The graph's inputs in what the data set gives."""
        made: list[Tensor] = caller(self._module, value, self._merged.inputs_of)(value)
        return made

    def _head(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        with self._autocast():
            return self._prefix.head(inputs)

    def _autocast(self) -> AbstractContextManager[Any]:
        amp = self._settings.amp
        if amp is None:
            return nullcontext()
        return torch.autocast(self._settings.device.type, AMP[amp])

    def _unfit(self, batch: Batch) -> str | None:
        """Whether values are the samples' own: those of a batch must be those of its halves."""
        inputs = self._inputs(batch.inputs)
        if batch.size < 2:
            return "batches of one sample do not show whether samples are independent"
        half = batch.size // 2
        halves = [self._head([t[part] for t in inputs]) for part in _halves(half)]
        for number, whole in enumerate(self._head(inputs)):
            name = self._prefix.values[number].name
            parts = [found[number] for found in halves]
            if not storable(whole) or len(whole) != batch.size or len(parts[0]) != half:
                return f"what {name} returns has no row for each sample"
            if not _same(whole, torch.cat(parts)):
                return f"what {name} returns for a sample depends on the batch that it is in"
        return None

    def _too_big(self, tensors: Sequence[Tensor]) -> str | None:
        row = sum(t[0].numel() * t.element_size() for t in tensors)
        size, used = row * len(self._source), self._store.used()
        if used + size <= self._store.limit:
            return None
        others = f", and {_shown(used)} are taken" if used else ""
        return (
            f"it would take {_shown(size)}{others}; the bound is {_shown(self._store.limit)} "
            "(Supervised(cache_frozen=BYTES))"
        )


def _halves(size: int) -> tuple[slice, slice]:
    return slice(0, size), slice(size, None)


def _same(whole: Tensor, parts: Tensor) -> bool:
    if whole.shape != parts.shape or whole.dtype != parts.dtype:
        return False
    within = _WITHIN.get(whole.dtype)
    if within is None:
        return torch.equal(whole, parts)
    finite = whole[torch.isfinite(whole)].abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(parts, whole, rtol=0.0, atol=within * largest, equal_nan=True)


def _shown(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"
