"""Published spaces: their size, and the parameters and multiply-adds of their reference models."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from retiarii import spaces
from retiarii.ir.graph import Graph
from retiarii.space import ModelSpace
from retiarii.spaces.autoformer import SUPER_NETWORKS, SuperNetwork, decisions_autoformer
from retiarii.spaces.darts import DARTS_V2, OPERATIONS, darts_size
from retiarii.spaces.fbnet import FBNET_A, FBNET_B, FBNET_C
from retiarii.spaces.mobilenet_v3 import MOBILENET_V3_LARGE
from retiarii.spaces.nas_bench_101 import decisions_101
from retiarii.spaces.nas_bench_201 import decisions_201
from retiarii.spaces.nas_bench_macro import decisions_macro
from retiarii.spaces.nasnet import NASNET_A, NASNET_OPERATIONS, cell_size
from retiarii.spaces.proxylessnas import PROXYLESS_MOBILE
from retiarii.spaces.shufflenet import SPOS_FOUND
from retiarii.spaces.tabular import mlp_size
from retiarii.testing.small_spaces import SMALL

TABLES = Path(__file__).parents[3] / "shared" / "tabular"


def params(graph: Graph) -> int:
    return graph.cost().params


def madds(graph: Graph) -> float:
    """Multiply-adds of one sample: what papers on mobile networks call FLOPs."""
    cost = graph.cost()
    return cost.flops / 2 / cost.batch


def rows(name: str) -> list[dict[str, str]]:
    path = TABLES / name
    if not path.exists():
        pytest.skip(f"the published table {name} is not at {TABLES}")
    with path.open() as file:
        return list(csv.DictReader(file))


def test_every_space_has_a_small_version() -> None:
    assert sorted(SMALL) == sorted(spaces.__all__)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_small_versions_build_and_train_a_step(name: str) -> None:
    space = SMALL[name]()
    for seed in range(3):
        candidate = space.sample(seed)
        candidate.graph.verify()
        assert not candidate.graph.opaque
        again = space.freeze(dict(candidate.decisions))
        assert again.canonical_hash() == candidate.canonical_hash()
        model = candidate.build(seed)
        assert {p.device.type for p in model.parameters()} == {"cpu"}
        (example,) = (node.shape for node in space.graph.inputs)
        out = model(torch.randn(4, *example[1:]))
        assert out.shape == (4, 3)
        out.square().sum().backward()
        assert sum(p.numel() for p in model.parameters()) == params(candidate.graph)


SMALL_SIZES = {
    "nas_bench_201": 15_625,
    "nas_bench_macro": 9,
    "darts": darts_size(2),
    "nasnet": cell_size(2) ** 2,
    "pnas": cell_size(2, 8),
    "enas_macro": 6**4 * 2**6,
    "proxylessnas": 6**2 * 7**2,
    "fbnet": 9**3,
    "ofa_mobilenet_v3": (9 + 81) ** 2,
    "mobilenet_v3": 4**2,
    "spos": 4**4,
    "autoformer": 2 * (4 + 16),
    "tabular_mlp": 6 * (2 + 4 + 8 + 8),
    "tabular_resnet": 2 * 2 * 4 * 36,
}


@pytest.mark.parametrize(
    "name",
    [
        # All operations in two cells of NASNet: most of a minute.
        pytest.param(name, marks=[pytest.mark.slow] if name == "nasnet" else [])
        for name in sorted(SMALL_SIZES)
    ],
)
def test_small_sizes_follow_the_formula(name: str) -> None:
    assert SMALL[name]().count() == SMALL_SIZES[name]


def test_two_cells_of_nasnet_with_some_operations_follow_the_formula() -> None:
    operations = _some(NASNET_OPERATIONS, 3)
    space = spaces.nasnet(4, 1, 2, 8, stages=2, blocks=2, operations=operations)
    assert space.count() == cell_size(2, 3) ** 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: spaces.nas_bench_101(4, 1, 2, 8, vertices=4, max_edges=4, stacks=2),
        lambda: spaces.enas_macro(2, 4, 2, 8),
        lambda: spaces.nasnet(
            4, 1, 2, 8, stages=1, blocks=2, operations=_some(NASNET_OPERATIONS, 2)
        ),
        lambda: spaces.pnas(4, 1, 2, 8, stages=2, blocks=1, operations=_some(NASNET_OPERATIONS, 3)),
        lambda: spaces.darts(4, 3, 2, 8, nodes=1, operations=_some(OPERATIONS, 3)),
        lambda: spaces.autoformer(
            SuperNetwork((8,), (1, 2), (1, 2), (2.0, 3.0)), 2, 32, head_width=4
        ),
        lambda: spaces.tabular_mlp(4, 2, depths=(1, 3), widths=(2, 4), dropouts=(0.0, 0.5)),
    ],
)
def test_counted_are_the_enumerated(make: Callable[[], ModelSpace]) -> None:
    space = make()
    seen = {tuple(sorted(map(str, c.decisions.items()))) for c in space.enumerate()}
    assert len(seen) == space.count()


def _some(operations: Any, count: int) -> Any:
    return {name: operations[name] for name in list(operations)[:count]}


def test_a_shorter_count_gives_way_to_what_is_added() -> None:
    space = spaces.nas_bench_101(4, 1, 2, 8, vertices=3, max_edges=9, stacks=1)
    whole = space.count()
    space.require(lambda c: c.decisions["cell/op1"] == "conv3x3")
    assert 0 < space.count() < whole
    assert space.count() == len(list(space.enumerate()))


# --- published sizes, at the published scale -----------------------------------------------------

PUBLISHED: dict[str, tuple[Callable[[], ModelSpace], int, float]] = {
    # space, exactly, as the paper prints it
    "nas_bench_201": (spaces.nas_bench_201, 5**6, 15_625),
    "nas_bench_macro": (spaces.nas_bench_macro, 3**8, 6_561),
    "enas_macro": (spaces.enas_macro, 6**12 * 2**66, 1.6e29),
    "proxylessnas": (spaces.proxylessnas, 6**6 * 7**15, 2.2e17),
    "fbnet": (spaces.fbnet, 9**22, 1e21),
    "ofa": (spaces.ofa_mobilenet_v3, (9**2 + 9**3 + 9**4) ** 5, 2e19),
    "mobilenet_v3": (spaces.mobilenet_v3, 4**15, 4**15),
    "spos": (spaces.spos, 4**20, 4**20),
    "tabular_mlp": (lambda: spaces.tabular_mlp(8, 2), mlp_size(5, range(1, 9), 6), 4_680),
    "tabular_resnet": (lambda: spaces.tabular_resnet(8, 2), 8 * 4 * 4 * 36, 4_608),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_sizes(name: str) -> None:
    make, exact, printed = PUBLISHED[name]
    assert make().count() == exact
    assert exact == pytest.approx(printed, rel=0.1)


@pytest.mark.slow
def test_the_size_of_darts() -> None:
    """Cells of 180 * 7^8 = 1.04e9, "about 10^9"; two of them "about 10^18"."""
    assert spaces.darts().count() == darts_size() == (180 * 7**8) ** 2
    assert 1e18 <= darts_size() < 1.1e18


@pytest.mark.slow
def test_the_sizes_of_nasnet_and_pnas() -> None:
    assert spaces.pnas().count() == cell_size(5, 8) == 720**2 * 8**10
    assert cell_size(5, 8) == pytest.approx(5.6e14, rel=0.01)
    assert spaces.nasnet().count() == cell_size() ** 2 == (720**2 * 13**10) ** 2


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SUPER_NETWORKS))
def test_the_sizes_of_autoformer(name: str) -> None:
    assert spaces.autoformer(name).count() == SUPER_NETWORKS[name].size()
    assert SUPER_NETWORKS["base"].size() == 3 * (9**14 + 9**15 + 9**16)
    # The paper's figure counts the choices of layers that are not there.
    assert pytest.approx(1.7e16, rel=0.02) == 3 * 3 * 9**16


@pytest.mark.slow
def test_nas_bench_201_enumerates() -> None:
    space = spaces.nas_bench_201(4, 1, 2, 8)
    seen, hashes = set(), set()
    for candidate in space.enumerate():
        seen.add(tuple(candidate.decisions.values()))
        hashes.add(candidate.canonical_hash())
    assert len(seen) == 15_625
    assert len(hashes) < 6_466  # what Dong and Yang count as different cells


# --- reference models ----------------------------------------------------------------------------


def test_parameters_of_nas_bench_201() -> None:
    """The published best and a sample, to the last digit."""
    table = rows("nb201_cifar10.csv")
    best = max(table, key=lambda row: float(row["val_accuracy"]))
    assert best["cell"] == "333132"
    space = spaces.nas_bench_201()
    for row in [best, table[0], table[-1], *random.Random(0).sample(table, 40)]:
        graph = space.freeze(decisions_201(row["cell"])).graph
        assert params(graph) == int(row["params"]), row["cell"]


def test_parameters_and_flops_of_nas_bench_macro() -> None:
    table = rows("nas_bench_macro_cifar10.csv")
    space = spaces.nas_bench_macro()
    for row in [table[0], table[-1], *random.Random(0).sample(table, 40)]:
        graph = space.freeze(decisions_macro(row["layers"])).graph
        assert params(graph) == int(row["params"]), row["layers"]
        assert madds(graph) == int(row["flops"]), row["layers"]


def test_the_example_of_nas_bench_101() -> None:
    """An Inception-like cell, which the released code prints with 2,694,282 parameters."""
    matrix = [
        [0, 1, 1, 1, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0],
    ]
    operations = ["conv1x1", "conv3x3", "conv3x3", "conv3x3", "maxpool3x3"]
    candidate = spaces.nas_bench_101().freeze(decisions_101(matrix, operations))
    assert params(candidate.graph) == 2_694_282


def test_darts_v2() -> None:
    """3.3 M as published; 3.349342 M is what the released code prints (no auxiliary head)."""
    assert params(spaces.darts().freeze(DARTS_V2).graph) == 3_349_342


@pytest.mark.slow
def test_nasnet_a() -> None:
    """3.3 M as published for 6 @ 768."""
    graph = spaces.nasnet(always_previous=True).freeze(NASNET_A).graph
    assert params(graph) == 3_287_274
    (linear,) = graph.find(lambda node: node.op == "Linear")
    assert linear.attrs["in_features"] == 768
    # By the rule of the paper alone, without the input that the published cell hands on.
    assert params(spaces.nasnet().freeze(NASNET_A).graph) == 3_061_738


def test_proxyless_mobile() -> None:
    """4.1 M and 320 M as published; 4,080,512 are those of the released model."""
    graph = spaces.proxylessnas().freeze(PROXYLESS_MOBILE).graph
    assert params(graph) == 4_080_512
    assert madds(graph) == pytest.approx(320e6, rel=0.002)


def test_mobilenet_v3_large() -> None:
    """5.4 M and 219 M as published: 1.1 % more than what layers multiply (217 M by others too)."""
    graph = spaces.mobilenet_v3().freeze(MOBILENET_V3_LARGE).graph
    assert params(graph) == 5_483_032
    assert madds(graph) == pytest.approx(219e6, rel=0.015)


@pytest.mark.parametrize(
    ("decisions", "printed"), [(FBNET_A, 249e6), (FBNET_B, 295e6), (FBNET_C, 375e6)]
)
def test_multiply_adds_of_fbnet(decisions: Any, printed: float) -> None:
    """The cells of the released code, which came after the paper: within 3 %."""
    assert madds(spaces.fbnet().freeze(decisions).graph) == pytest.approx(printed, rel=0.03)


def test_parameters_of_fbnet() -> None:
    """C: 5.5 M as published. A: 4.3 M, with 1,504 features before the classifier."""
    assert params(spaces.fbnet().freeze(FBNET_C).graph) == pytest.approx(5.5e6, rel=0.02)
    assert params(spaces.fbnet(features=1504).freeze(FBNET_A).graph) == pytest.approx(
        4.3e6, rel=0.01
    )


def test_the_found_network_of_spos() -> None:
    """323 M and 3.5 M as the authors print them."""
    graph = spaces.spos().freeze(SPOS_FOUND).graph
    assert madds(graph) == pytest.approx(323e6, rel=0.001)
    assert params(graph) == pytest.approx(3.5e6, rel=0.02)


def test_the_largest_once_for_all_network() -> None:
    """Nothing to compare with is printed: this keeps our own figure."""
    decisions: dict[str, Any] = {f"stage{s}/depth": 4 for s in range(5)}
    decisions |= {f"stage{s}/block{b}": "k7e6" for s in range(5) for b in range(4)}
    assert params(spaces.ofa_mobilenet_v3().freeze(decisions).graph) == 7_664_760


@pytest.mark.parametrize(
    ("name", "smallest", "largest"), [("small", 14e6, 34e6), ("base", 42e6, 75e6)]
)
def test_the_ranges_of_autoformer(name: str, smallest: float, largest: float) -> None:
    """The ranges of the paper; the ends of ours lie up to 8 % and 3 % further out."""
    of = SUPER_NETWORKS[name]
    space = spaces.autoformer(name)
    for pick, printed, slack in ((min, smallest, 0.08), (max, largest, 0.03)):
        depth = pick(of.depths)
        decisions = decisions_autoformer(
            pick(of.widths), [pick(of.heads)] * depth, [pick(of.ratios)] * depth
        )
        assert params(space.freeze(decisions).graph) == pytest.approx(printed, rel=slack)
