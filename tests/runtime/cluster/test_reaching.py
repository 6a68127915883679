"""Clusters that are not there: found out at once, and told."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from retiarii.errors import RetiariiError
from retiarii.runtime.cluster.connection import Connection, import_ray
from retiarii.runtime.cluster.reaching import be_private, check_reachable


def test_without_ray_the_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RetiariiError, match="not installed") as told:
        import_ray()
    assert 'pip install "retiarii[ray]"' in (told.value.fix or "")


@pytest.mark.parametrize(
    "address", ["garbage", "ray://10.0.0.1:10001", ":6379", "host:port", "host:99999", ""]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(RetiariiError, match="no address"):
        check_reachable(address)


def test_a_port_where_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check_reachable(f"127.0.0.1:{port}")
    with pytest.raises(RetiariiError, match="no Ray cluster answers") as told:
        Connection(f"127.0.0.1:{port}", Path("."))
    assert f"127.0.0.1:{port}" in (told.value.where or "")


@pytest.mark.parametrize("name", ["nowhere.invalid", "x" * 300, "a..b"])
def test_a_name_of_no_host(name: str) -> None:
    with pytest.raises(RetiariiError, match="no Ray cluster answers"):
        check_reachable(f"{name}:6379")


def test_a_cluster_here_is_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    room = be_private()
    assert stat.S_IMODE(room.stat().st_mode) == 0o700
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    room.rmdir()
