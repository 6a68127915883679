"""What to see to before Ray is started: that a cluster answers, or that one here is private."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from retiarii.errors import RetiariiError

_REACH_SECONDS: Final = 10.0
# Names of Ray's own that are no host: the cluster of this machine, and none yet.
_FOUND, HERE = "auto", "local"
# Ray's sockets are below this folder, and a socket's path may have some 100 characters.
_LONGEST_TEMPORARY = 30


def check_reachable(address: str) -> None:
    """Connects to the cluster's port, and hangs up.

    Raises:
        RetiariiError: it is no address, or nothing answers there.
    """
    if address == _FOUND:
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or int(port) > 65535:
        raise RetiariiError(
            "this is no address of a Ray cluster",
            where=f"--address {address}",
            fix="give HOST:PORT as `ray start --head` has told it, such as 10.0.0.1:6379, or auto; "
            "for a ray:// address, run the command on a machine of the cluster instead",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS).close()
    except (OSError, UnicodeError) as error:
        raise RetiariiError(
            f"no Ray cluster answers there: {error}",
            where=f"--address {address}",
            fix="see that it is up (`ray status` on its head), that this machine may connect to "
            "the port, and that the address is the one that `ray start --head` has told",
        ) from error


def check_head(address: str) -> None:
    """Connects to the port of a cluster's head, which may take a few seconds to come back.

    Raises:
        RetiariiError: it has gone.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + _REACH_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RetiariiError(
                    f"the head of the Ray cluster has gone: {error}",
                    where=address,
                    fix="start the cluster again, and run the same command: it goes on from the "
                    "last checkpoints; so it does with --executor local",
                ) from error
        time.sleep(0.2)


def be_brief() -> None:
    """Has Ray try once to reach what listens but does not answer, and not for a quarter of an hour.

    Read by Ray when it is imported, and when it connects.
    """
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")


def be_private() -> Path:
    """Has a cluster of this machine alone answer to who has a token.

    Returns:
        A folder for its files, which nobody else may read; the caller deletes it.
    """
    # Other users of this machine reach its ports, too. Only processes of this user can read the
    # environment; Ray's own way, which stays where it has been imported before, is a file.
    if "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    usual = tempfile.gettempdir()
    short = usual if len(usual) <= _LONGEST_TEMPORARY else "/tmp"
    return Path(tempfile.mkdtemp(prefix="retiarii-ray-", dir=short))
