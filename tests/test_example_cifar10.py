"""The CIFAR-10 example, on a tiny archive in the original's format."""

from __future__ import annotations

import importlib.util
import io
import os
import pickle
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from retiarii.cli import app
from retiarii.errors import FileError
from retiarii.runtime.source import load_space_file

EXAMPLE = Path(__file__).parents[1] / "examples" / "cifar10"
FOLDER = "cifar-10-batches-py"


class _Python2(pickle._Pickler):  # type: ignore[name-defined]
    """Writes bytes as Python 2 wrote its strings, as the original has them."""

    dispatch = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def _string(self, value: bytes) -> None:
        size = len(value)
        short = size < 256
        self.write(b"U" + bytes([size]) if short else b"T" + size.to_bytes(4, "little"))
        self.write(value)
        self.memoize(value)

    def _text(self, value: str) -> None:  # numpy's own, such as "u1"
        self._string(value.encode())

    dispatch[bytes] = _string
    dispatch[str] = _text


def _pickled(value: Any) -> bytes:
    out = io.BytesIO()
    _Python2(out, 2).dump(value)
    # numpy 2 has moved it; the archive says where it was.
    return out.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def _batch(seed: int, images: int) -> dict[bytes, Any]:
    drawn = np.random.default_rng(seed)
    labels = drawn.integers(10, size=images)
    # A class is known by its brightness, so that something can be learnt.
    data = drawn.integers(20, size=(images, 3072)) + labels[:, None] * 22
    return {
        b"batch_label": b"training batch 1 of 5",
        b"labels": [int(label) for label in labels],
        b"data": data.astype(np.uint8),
        b"filenames": [b"image_%d.png" % i for i in range(images)],
    }


def _members(images: int = 16) -> dict[str, bytes]:
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    members = {name: _pickled(_batch(i, images)) for i, name in enumerate(names)}
    classes = [b"airplane", b"automobile", b"bird", b"cat", b"deer"]
    classes += [b"dog", b"frog", b"horse", b"ship", b"truck"]
    members["batches.meta"] = _pickled(
        {b"num_cases_per_batch": images, b"label_names": classes, b"num_vis": 3072}
    )
    return members | {"readme.html": b"<html></html>"}


def _tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name if "/" in name else f"{FOLDER}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def archive() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cifar10_archive", EXAMPLE / "archive.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reads_the_original_format(archive: ModuleType, tmp_path: Path) -> None:
    members = _members()
    assert b"cnumpy.core.multiarray\n_reconstruct" in members["data_batch_1"]
    assert b"_codecs" not in members["data_batch_1"]
    found = archive.read(_tar(tmp_path / "cifar-10-python.tar.gz", members))
    assert found.train_x.shape == (80, 3, 32, 32)
    assert found.train_x.dtype == torch.uint8
    assert found.test_y.shape == (16,)
    assert found.names[0] == "airplane"
    wanted = _batch(1, 16)
    assert found.train_x[16:32].reshape(16, -1).tolist() == wanted[b"data"].tolist()
    assert found.train_y[16:32].tolist() == wanted[b"labels"]
    assert os.listdir(tmp_path) == ["cifar-10-python.tar.gz"]  # nothing was unpacked


@pytest.mark.parametrize("inside", [True, False])
def test_reads_the_folder_as_well(archive: ModuleType, tmp_path: Path, inside: bool) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    for name, data in _members().items():
        (folder / name).write_bytes(data)
    found = archive.read(folder if inside else tmp_path)
    assert len(found.train_y) == 80


class _Runs:
    """What a pickle can do to its reader."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.file}",))


class _Evaluates(_Runs):
    def __reduce__(self) -> Any:
        return (eval, (f"open({str(self.file)!r}, 'w').close()",))


class _Touches(_Runs):
    def __reduce__(self) -> Any:
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("kind", [_Runs, _Evaluates, _Touches])
@pytest.mark.parametrize("nested", [True, False])
def test_a_malicious_pickle_runs_nothing(
    archive: ModuleType, tmp_path: Path, kind: type[_Runs], nested: bool
) -> None:
    file = tmp_path / "was_here"
    evil = pickle.dumps({b"data": [kind(file)]} if nested else kind(file), 2)
    path = _tar(tmp_path / "evil.tar.gz", _members() | {"data_batch_3": evil})
    with pytest.raises(FileError, match="it is refused: it asks for") as raised:
        archive.read(path)
    assert not file.exists()
    assert "data_batch_3" in str(raised.value.where)
    pickle.loads(evil)  # a real one, as its creation of the file shows
    assert file.exists()


def _wrong_array(**changes: Any) -> dict[bytes, Any]:
    return _batch(0, 4) | {key.encode(): value for key, value in changes.items()}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x80\x02", "it is refused"),
        (b"not a pickle", "it is refused"),
        (pickle.dumps([1, 2], 2), "holds a list, not a dict"),
        (_pickled(_wrong_array(labels=[1, 2])), "the images are"),
        (_pickled(_wrong_array(labels=[1, 2, 3, 10])), "from 0 to 9"),
        (_pickled(_wrong_array(data=b"no array")), "no images"),
        (_pickled(_wrong_array(data=np.zeros((4, 3072)))), "an array that cannot be"),
        (_pickled(_wrong_array(data=np.array([None, 1]))), "an array that cannot be"),
        (_pickled(_wrong_array(data=np.zeros((4, 9), np.uint8))), "the images are"),
    ],
)
def test_damaged_batches(archive: ModuleType, tmp_path: Path, data: bytes, says: str) -> None:
    path = _tar(tmp_path / "damaged.tar.gz", _members(4) | {"data_batch_2": data})
    with pytest.raises(FileError, match=says) as raised:
        archive.read(path)
    assert "download cifar-10-python.tar.gz by hand" in str(raised.value.fix)


def test_members_outside_of_the_archive(archive: ModuleType, tmp_path: Path) -> None:
    path = _tar(tmp_path / "outside.tar.gz", {f"{FOLDER}/../../data_batch_1": b"", **_members()})
    with pytest.raises(FileError, match="a member lies outside of it"):
        archive.read(path)


def test_a_link_is_not_followed(archive: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "link.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo(f"{FOLDER}/data_batch_1")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(FileError, match="data_batch_1 is no file"):
        archive.read(path)


def test_no_archive(archive: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _tar(tmp_path / "whole.tar.gz", _members()).read_bytes()
    (tmp_path / "half.tar.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text").write_text("text")
    del (members := _members())["data_batch_5"]
    _tar(tmp_path / "less.tar.gz", members)
    monkeypatch.delenv("CIFAR10", raising=False)
    with pytest.raises(FileError, match=r"\$CIFAR10 is not set"):
        archive.from_environment()
    for name, says in [
        ("nowhere", "is not there"),
        ("half.tar.gz", "cannot be read"),
        ("text", "cannot be read"),
        ("less.tar.gz", "data_batch_5 is not in it"),
    ]:
        monkeypatch.setenv("CIFAR10", str(tmp_path / name))
        with pytest.raises(FileError, match=says) as raised:
            archive.from_environment()
        assert "cs.toronto.edu" in str(raised.value.fix)


def test_missing_data_is_told_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CIFAR10", raising=False)
    words = ["run", str(EXAMPLE / "hyperparameters.py"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "$CIFAR10 is not set" in result.output
    assert "download cifar-10-python.tar.gz by hand" in result.output
    assert not (tmp_path / "out").exists()


def test_both_steps_and_the_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CIFAR10", str(_tar(tmp_path / "cifar-10-python.tar.gz", _members(24))))
    monkeypatch.setenv("CIFAR10_FIRST", str(tmp_path / "first"))
    folder = tmp_path / "cifar10"
    folder.mkdir()
    for file in EXAMPLE.glob("*.py"):  # an epoch in place of nine; all else as it is
        (folder / file.name).write_text(file.read_text().replace("epochs=9", "epochs=1"))

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == 0, result.output
        return result.output

    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    random = ("--trials", "2", "--strategy", "random")
    run("run", str(folder / "hyperparameters.py"), "--out", first, *random)
    assert "batch_size" in run("show", first)
    out = run("run", str(folder / "architecture.py"), "--out", second, *random)
    assert "kind0" in out
    assert "lr" not in out  # it is settled
    space = load_space_file(folder / "architecture.py").space
    assert space is not None
    # Widths, growths, kinds, depths and dropout rates.
    assert space.count() == 3 * 2 * 3**3 * 3 * 3
    run("export", second, "--to", str(tmp_path / "best"))
    spec = importlib.util.spec_from_file_location("test_accuracy", folder / "test_accuracy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.syspath_prepend(str(folder))
    spec.loader.exec_module(module)
    module.main(second)
    assert "test accuracy" in capsys.readouterr().out
