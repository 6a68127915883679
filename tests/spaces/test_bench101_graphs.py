"""Graphs of NAS-Bench-101: validity, isomorphism, numbers."""

from __future__ import annotations

import itertools

import pytest

from retiarii.spaces.bench101_graphs import (
    OPERATIONS,
    Matrix,
    count_unique,
    count_valid,
    edges_of,
    fingerprint,
    pruned,
    topologies,
)
from retiarii.spaces.nas_bench_101 import vertex_channels


def matrices(vertices: int) -> list[Matrix]:
    edges = edges_of(vertices)
    made = []
    for bits in itertools.product((0, 1), repeat=len(edges)):
        chosen = {edge for edge, bit in zip(edges, bits, strict=True) if bit}
        made.append(
            tuple(tuple(int((i, j) in chosen) for j in range(vertices)) for i in range(vertices))
        )
    return made


def brute_force(vertices: int, max_edges: int) -> tuple[int, set[str]]:
    valid, hashes = 0, set()
    for matrix in matrices(vertices):
        for operations in itertools.product(OPERATIONS, repeat=vertices - 2):
            cell = pruned(matrix, operations)
            if cell is not None and sum(map(sum, cell[0])) <= max_edges:
                valid += 1
                hashes.add(fingerprint(*cell))
    return valid, hashes


@pytest.mark.parametrize(("vertices", "max_edges"), [(2, 1), (3, 3), (4, 4), (4, 6), (5, 5)])
def test_numbers_are_those_of_brute_force(vertices: int, max_edges: int) -> None:
    valid, hashes = brute_force(vertices, max_edges)
    assert count_valid(vertices, max_edges) == valid
    # Pruned cells are those of fewer vertices.
    assert count_unique(vertices, max_edges) == len(hashes)


def test_all_matrices_with_operations() -> None:
    assert 2 ** len(edges_of(7)) * 3**5 == 509_607_936


@pytest.mark.slow
def test_the_published_number_of_cells() -> None:
    assert count_unique() == 423_624
    assert count_valid() == 373_754_169


def test_pruning() -> None:
    # 1 leads nowhere, nothing leads to 2.
    matrix = ((0, 1, 0, 1, 0), (0,) * 5, (0, 0, 0, 1, 0), (0, 0, 0, 0, 1), (0,) * 5)
    cell = pruned(matrix, ["conv1x1", "conv3x3", "maxpool3x3"])
    assert cell == (((0, 1, 0), (0, 0, 1), (0, 0, 0)), ("maxpool3x3",))
    assert pruned(((0, 1, 0), (0, 0, 0), (0, 0, 0)), ["conv1x1"]) is None


def test_a_fingerprint_does_not_see_the_order_of_vertices() -> None:
    a = ((0, 1, 1, 0), (0, 0, 0, 1), (0, 0, 0, 1), (0, 0, 0, 0))
    assert fingerprint(a, ["conv1x1", "conv3x3"]) == fingerprint(a, ["conv3x3", "conv1x1"])
    assert fingerprint(a, ["conv1x1", "conv1x1"]) != fingerprint(a, ["conv1x1", "conv3x3"])
    chain = ((0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, 0))
    assert fingerprint(chain, ["conv1x1", "conv3x3"]) != fingerprint(chain, ["conv3x3", "conv1x1"])
    assert fingerprint(a, ["conv1x1", "conv3x3"]) != fingerprint(chain, ["conv1x1", "conv3x3"])


def test_topologies_of_three_vertices() -> None:
    assert len(topologies(2)) == 1
    assert len(topologies(3)) == 2  # a chain, with or without the edge from input to output
    assert len(topologies(3, max_edges=2)) == 1


def test_channels_of_vertices() -> None:
    # Two end vertices share 7 channels; vertex 1 is as wide as the wider of what it leads to.
    matrix = (
        (0, 1, 0, 0, 0),
        (0, 0, 1, 1, 0),
        (0, 0, 0, 0, 1),
        (0, 0, 0, 0, 1),
        (0, 0, 0, 0, 0),
    )
    assert vertex_channels(3, 7, matrix) == [3, 4, 4, 3, 7]
    assert vertex_channels(3, 7, ((0, 1), (0, 0))) == [3, 7]
