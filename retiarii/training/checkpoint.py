"""Checkpoints of one trial: safetensors beside JSON, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from retiarii.errors import DISK, DiskError, FileError, TrialError
from retiarii.training.packed import packed

WEIGHTS = "weights.safetensors"
FINISHED = "finished.json"
_NAME = re.compile(r"checkpoint-(\d+)\.(json|safetensors)")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was saved after an epoch.

    Attributes:
        epoch: epochs done.
        tensors: name to tensor, on the CPU.
        meta: JSON.
    """

    epoch: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints in a trial's directory; the newest ``keep`` stay.

    A checkpoint is a pair of files, ``checkpoint-00003.safetensors`` and ``.json``. The JSON is
    written last and holds both checksums, so that a pair that is there and fits is whole. One that
    is not (cut short, of another search) is passed over for the one before it. So they need not be
    on the disk at once, which would take longer than a short epoch: where the machine itself fails,
    the last may be trained again.

    Args:
        directory: the trial's own; made when needed.
        identity: checkpoints that were written under another one are not used; ``None`` reads
            those of any.
        keep: how many stay.
    """

    def __init__(self, directory: Path, identity: str | None, keep: int = 2) -> None:
        self._directory = directory
        self._identity = identity
        self._keep = keep
        self._own: list[int] = []
        self._tidy = False  # whether there is nothing but our own in the directory

    def save(self, epoch: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Write the checkpoint of ``epoch``; then delete those that are too old.

        Raises:
            TrialError: the disk is full, or not writable.
        """
        data = packed(tensors)
        body = {"epoch": epoch, "identity": self._identity, "meta": dict(meta)}
        stem = f"checkpoint-{epoch:05d}"
        write_atomic(self._directory / f"{stem}.safetensors", data, synced=False)
        noted = {**body, "tensors": _checksum(data)}
        _write_json(self._directory / f"{stem}.json", noted, synced=False)
        kept = [*(e for e in self._own if e != epoch), epoch]
        self._own, stale = kept[-self._keep :], kept[: -self._keep]
        if not self._tidy:
            self._delete_except(self._own)
            self._tidy = True
        for old in stale:
            for kind in ("json", "safetensors"):
                (self._directory / f"checkpoint-{old:05d}.{kind}").unlink(missing_ok=True)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole and ours, or ``None``."""
        found = [self._read(epoch) for epoch in self._epochs()]
        whole = [c for c in found[: self._keep + 1] if c is not None]
        self._own = sorted(c.epoch for c in whole)[-self._keep :]
        return whole[0] if whole else None

    def finish(self, meta: Mapping[str, Any], *, keep: bool = False) -> None:
        """Note that training is done, its weights being saved.

        Args:
            meta: JSON, for `finished`.
            keep: whether the newest checkpoint stays, to go on from; without it all are deleted.
        """
        _write_json(self._directory / FINISHED, {"identity": self._identity, "meta": dict(meta)})
        self._own = self._own[-1:] if keep else []
        self._delete_except(self._own)

    def finished(self) -> dict[str, Any] | None:
        """What :meth:`finish` noted, if training is done and the weights are there."""
        body = _read_json(self._directory / FINISHED)
        if body is None or not self._is_ours(body):
            return None
        meta: dict[str, Any] | None = body.get("meta")
        return meta if (self._directory / WEIGHTS).is_file() else None

    def _is_ours(self, body: Mapping[str, Any]) -> bool:
        return self._identity is None or body.get("identity") == self._identity

    def _epochs(self) -> list[int]:
        """Epochs with a checkpoint, newest first."""
        if not self._directory.is_dir():
            return []
        found = (_NAME.fullmatch(name) for name in os.listdir(self._directory))
        return sorted({int(m[1]) for m in found if m and m[2] == "json"}, reverse=True)

    def _read(self, epoch: int) -> Checkpoint | None:
        stem = self._directory / f"checkpoint-{epoch:05d}"
        body = _read_json(stem.with_suffix(".json"))
        if body is None or not self._is_ours(body) or body.get("epoch") != epoch:
            return None
        try:
            data = stem.with_suffix(".safetensors").read_bytes()
            if _checksum(data) != body.get("tensors"):
                return None
            return Checkpoint(epoch, safetensors.torch.load(data), body["meta"])
        except (OSError, SafetensorError, KeyError):
            return None

    def _delete_except(self, epochs: list[int]) -> None:
        for path in list(self._directory.iterdir()):
            match = _NAME.fullmatch(path.name)
            stale = match is not None and int(match[1]) not in epochs
            if stale or path.name.endswith(".partial"):
                path.unlink(missing_ok=True)


def save_weights(directory: Path, state: Mapping[str, Any]) -> Path:
    """Write a model's ``state_dict`` to ``weights.safetensors``, every key in it.

    Raises:
        TrialError: the disk is full, or not writable.
    """
    state = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    path = directory / WEIGHTS
    write_atomic(path, packed(state))
    return path


def load_weights(directory: Path) -> dict[str, Tensor]:
    """The ``state_dict`` that :func:`save_weights` wrote.

    Raises:
        FileNotFoundError: there is none.
        FileError: the file is damaged.
    """
    path = directory / WEIGHTS
    data = path.read_bytes()
    try:
        loaded: dict[str, Tensor] = safetensors.torch.load(data)
    except SafetensorError as error:
        raise FileError(
            f"the trained weights are damaged: {error}",
            where=str(path),
            fix="restore the file from a copy, or choose another trial: retiarii show",
        ) from error
    return loaded


def write_atomic(path: Path, data: bytes, *, synced: bool = True) -> None:
    """Write a file that is there whole or not at all, whatever happens meanwhile.

    Args:
        path: of the file; folders are made.
        data: what it holds.
        synced: whether that also holds where the machine fails and not just the process.

    Raises:
        TrialError: the disk is full, or not writable.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb", opener=owned) as file:
            file.write(data)
            if synced:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
        if synced:
            _sync_directory(path.parent)
    except OSError as error:
        kind = DiskError if error.errno in DISK else TrialError
        raise kind(
            f"cannot write {path.name}: {error.strerror or error}",
            where=str(path.parent),
            fix="make room, or make the directory writable; the same command then goes on",
        ) from error


def owned(path: str, flags: int) -> int:
    """An opener, for files that only their owner may read."""
    return os.open(path, flags, 0o600)


def _sync_directory(directory: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_json(path: Path, body: Mapping[str, Any], *, synced: bool = True) -> None:
    text = json.dumps(body, sort_keys=True)
    whole = {**body, "checksum": _checksum(text.encode())}  # in its order, not the sorted one
    write_atomic(path, json.dumps(whole).encode(), synced=synced)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        body = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(body, dict):
        return None
    checksum = body.pop("checksum", None)
    text = json.dumps(body, sort_keys=True)
    return body if checksum == _checksum(text.encode()) else None


def _checksum(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors, and the rest of it as JSON."""
    return state_tensors(optimizer.state_dict()["state"])


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    """Give a fresh optimizer the state that :func:`optimizer_tensors` took."""
    state = state_from_tensors(tensors, plain)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def state_tensors(
    state: Mapping[int, Mapping[str, Any]],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of one model's optimizer, by the indices of its parameters, as it is stored."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for index, entry in state.items():
        for name, value in entry.items():
            key = f"optimizer.{index}.{name}"
            (tensors if isinstance(value, Tensor) else plain)[key] = value
    return tensors, plain


def state_from_tensors(
    tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> dict[int, dict[str, Any]]:
    """What :func:`state_tensors` took apart."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **plain}.items():
        kind, index, name = key.split(".", 2)
        assert kind == "optimizer"
        state.setdefault(int(index), {})[name] = value
    return state
