"""Spaces that people know, ready to search: each a function that returns a `ModelSpace`.

Each file names its paper, and says what size the paper prints, what ours is, and which reference
model has the parameters that the paper prints. Base models are made on the meta device: a space
holds no weights, and a candidate's are made when it is built.
"""

from retiarii.spaces.autoformer import autoformer
from retiarii.spaces.darts import darts
from retiarii.spaces.enas import enas_macro
from retiarii.spaces.fbnet import fbnet
from retiarii.spaces.mobilenet_v3 import mobilenet_v3
from retiarii.spaces.nas_bench_101 import nas_bench_101
from retiarii.spaces.nas_bench_201 import nas_bench_201
from retiarii.spaces.nas_bench_macro import nas_bench_macro
from retiarii.spaces.nasnet import nasnet, pnas
from retiarii.spaces.ofa import ofa_mobilenet_v3
from retiarii.spaces.proxylessnas import proxylessnas
from retiarii.spaces.shufflenet import spos
from retiarii.spaces.tabular import tabular_mlp, tabular_resnet

__all__ = [
    "autoformer",
    "darts",
    "enas_macro",
    "fbnet",
    "mobilenet_v3",
    "nas_bench_101",
    "nas_bench_201",
    "nas_bench_macro",
    "nasnet",
    "ofa_mobilenet_v3",
    "pnas",
    "proxylessnas",
    "spos",
    "tabular_mlp",
    "tabular_resnet",
]
