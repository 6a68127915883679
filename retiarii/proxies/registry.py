"""Proxies by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from retiarii.errors import ObjectiveError, nearest
from retiarii.proxies.base import Proxy
from retiarii.proxies.grad_norm import GradNorm
from retiarii.proxies.jacob_cov import JacobCov
from retiarii.proxies.naswot import NasWot
from retiarii.proxies.snip import Snip
from retiarii.proxies.synflow import SynFlow
from retiarii.proxies.zen import Zen

REGISTERED: Final[Mapping[str, type[Proxy]]] = MappingProxyType(
    {kind.name: kind for kind in (SynFlow, NasWot, Snip, GradNorm, JacobCov, Zen)}
)


def make_proxy(name: str) -> Proxy:
    """The proxy of that name.

    Raises:
        ObjectiveError: there is none.
    """
    if name not in REGISTERED:
        raise ObjectiveError(f"there is no proxy {name!r}", fix=nearest(name, list(REGISTERED)))
    return REGISTERED[name]()
