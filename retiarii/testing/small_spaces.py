"""Small versions of all ready spaces: each samples, builds and trains in well under a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from retiarii import spaces
from retiarii.space import ModelSpace
from retiarii.spaces.autoformer import SuperNetwork

SMALL: Final[Mapping[str, Callable[[], ModelSpace]]] = MappingProxyType(
    {
        "nas_bench_101": lambda: spaces.nas_bench_101(8, 1, 3, 8, vertices=5, max_edges=6),
        "nas_bench_201": lambda: spaces.nas_bench_201(4, 1, 3, 8),
        "nas_bench_macro": lambda: spaces.nas_bench_macro(
            3, 8, stem=4, stages=((6, 2),), features=8
        ),
        "darts": lambda: spaces.darts(4, 3, 3, 8, nodes=2),
        "nasnet": lambda: spaces.nasnet(4, 1, 3, 8, stages=2, blocks=2),
        "pnas": lambda: spaces.pnas(4, 1, 3, 8, stages=2, blocks=2),
        "enas_macro": lambda: spaces.enas_macro(4, 4, 3, 8),
        "proxylessnas": lambda: spaces.proxylessnas(
            3, 32, stem=8, first=4, stages=((6, 2, 2), (8, 2, 2)), features=8
        ),
        "fbnet": lambda: spaces.fbnet(3, 32, stem=4, stages=((4, 1, 1), (8, 2, 2)), features=8),
        "ofa_mobilenet_v3": lambda: spaces.ofa_mobilenet_v3(
            3,
            32,
            stages=((8, 2, False, False), (16, 2, True, True)),
            depths=(1, 2),
            features=(8, 8),
        ),
        "mobilenet_v3": lambda: spaces.mobilenet_v3(
            3,
            32,
            blocks=((3, 16, 16, False, False, 1), (5, 32, 24, True, True, 2)),
            features=(8, 8),
        ),
        "spos": lambda: spaces.spos(3, 32, stem=4, stages=((8, 2), (16, 2)), features=8),
        "autoformer": lambda: spaces.autoformer(
            SuperNetwork((16, 24), (1, 2), (1, 2), (2.0, 3.0)), 3, 32, head_width=8
        ),
        "tabular_mlp": lambda: spaces.tabular_mlp(5, 3, depths=(1, 2, 3, 4), widths=(4, 8)),
        "tabular_resnet": lambda: spaces.tabular_resnet(5, 3, depths=(1, 2), widths=(4, 8)),
    }
)
