"""Seeds derived by name, so that no random stream depends on the order of events."""

from __future__ import annotations

import hashlib


def derive(seed: int, *parts: str | int) -> int:
    """A seed in ``[0, 2**63)`` that is a function of ``seed`` and ``parts`` alone.

    The same arguments give the same seed in every process and on every platform.
    """
    text = "\x1f".join([str(seed), *(str(p) for p in parts)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
