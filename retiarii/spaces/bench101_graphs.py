"""The graphs of NAS-Bench-101: which are valid, what they prune to, and how many are unique."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

OPERATIONS = ("conv1x1", "conv3x3", "maxpool3x3")
MAX_VERTICES, MAX_EDGES = 7, 9
# An upper triangular adjacency matrix, rows of 0 and 1; vertex 0 is the input, the last the output.
Matrix = tuple[tuple[int, ...], ...]
_Bits = NDArray[np.uint64]


def edges_of(vertices: int) -> tuple[tuple[int, int], ...]:
    """All possible edges, in the order of their bits."""
    return tuple((i, j) for j in range(1, vertices) for i in range(j))


def pruned(matrix: Matrix, operations: Sequence[str]) -> tuple[Matrix, tuple[str, ...]] | None:
    """Without the vertices that are not on a way from input to output; ``None`` if there is none.

    Args:
        matrix: of v vertices.
        operations: of the v - 2 vertices between input and output.
    """
    last = len(matrix) - 1
    forward = {0}
    for j in range(1, last + 1):
        if any(matrix[i][j] and i in forward for i in range(j)):
            forward.add(j)
    backward = {last}
    for i in range(last - 1, -1, -1):
        if any(matrix[i][j] and j in backward for j in range(i + 1, last + 1)):
            backward.add(i)
    kept = sorted(forward & backward)
    if 0 not in kept or last not in kept:
        return None
    return (
        tuple(tuple(matrix[i][j] for j in kept) for i in kept),
        tuple(operations[i - 1] for i in kept[1:-1]),
    )


def fingerprint(matrix: Matrix, operations: Sequence[str]) -> str:
    """The benchmark's hash: equal for cells that differ only in the order of their vertices.

    Each vertex begins with its degrees and label, and then, as often as there are vertices, takes
    in the sorted hashes of its predecessors and successors; the sorted hashes are the cell's.
    """
    count = len(matrix)
    labels = ["input", *operations, "output"]

    def digest(thing: object) -> str:
        return hashlib.md5(str(thing).encode()).hexdigest()

    hashes = [
        digest((sum(matrix[v]), sum(row[v] for row in matrix), labels[v])) for v in range(count)
    ]
    for _ in range(count):
        hashes = [
            digest(
                (
                    sorted(hashes[u] for u in range(count) if matrix[u][v]),
                    sorted(hashes[u] for u in range(count) if matrix[v][u]),
                    hashes[v],
                )
            )
            for v in range(count)
        ]
    return digest(sorted(hashes))


# --- counting ----------------------------------------------------------------------------------


def _matrices(vertices: int) -> tuple[_Bits, NDArray[np.bool_]]:
    """All edge sets as bits, and [edge set, i, j]: is there an edge."""
    edges = edges_of(vertices)
    codes = np.arange(1 << len(edges), dtype=np.uint64)
    present = np.zeros((len(codes), vertices, vertices), dtype=bool)
    for bit, (i, j) in enumerate(edges):
        present[:, i, j] = (codes >> np.uint64(bit)) & np.uint64(1)
    return codes, present


def _on_a_way(present: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[edge set, vertex]: is the vertex on a way from input to output."""
    count, vertices, _ = present.shape
    forward, backward = np.zeros((2, count, vertices), dtype=bool)
    forward[:, 0] = backward[:, -1] = True
    for j in range(1, vertices):
        forward[:, j] = (present[:, :j, j] & forward[:, :j]).any(axis=1)
    for i in range(vertices - 2, -1, -1):
        backward[:, i] = (present[:, i, i + 1 :] & backward[:, i + 1 :]).any(axis=1)
    kept: NDArray[np.bool_] = forward & backward
    return kept


@cache
def count_valid(
    vertices: int = MAX_VERTICES,
    max_edges: int = MAX_EDGES,
    operations: int = len(OPERATIONS),
) -> int:
    """Pairs of a matrix of exactly ``vertices`` vertices and operations that are valid.

    Valid: input and output are connected, and at most ``max_edges`` edges are left by pruning.
    """
    _, present = _matrices(vertices)
    kept = _on_a_way(present)
    left = (present & kept[:, :, None] & kept[:, None, :]).sum(axis=(1, 2))
    return int((kept[:, 0] & (left <= max_edges)).sum()) * int(operations ** (vertices - 2))


@cache
def topologies(vertices: int, max_edges: int = MAX_EDGES) -> tuple[Matrix, ...]:
    """Matrices in which all vertices are on a way, one for each class of isomorphic ones."""
    codes, present = _matrices(vertices)
    full = _on_a_way(present).all(axis=1) & (present.sum(axis=(1, 2)) <= max_edges)
    codes, present = codes[full], present[full]
    least = np.full(len(codes), np.iinfo(np.uint64).max, dtype=np.uint64)
    for order in itertools.permutations(range(1, vertices - 1)):
        place = (0, *order, vertices - 1)
        code = np.zeros(len(codes), dtype=np.uint64)
        for i, j in edges_of(vertices):
            bit = np.uint64(place[i] * vertices + place[j])
            code |= present[:, i, j].astype(np.uint64) << bit
        least = np.minimum(least, code)
    _, first = np.unique(least, return_index=True)
    return tuple(tuple(tuple(int(x) for x in row) for row in matrix) for matrix in present[first])


def _mixed(x: _Bits) -> _Bits:
    """A fixed scrambling of 64 bits (the finaliser of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    made: _Bits = x ^ (x >> np.uint64(31))
    return made


def _fingerprints(matrix: Matrix, operations: int) -> _Bits:
    """`fingerprint` of all labellings of a matrix at once, in arithmetic on 64 bits.

    A sorted list of hashes is as good as the sum of what they scramble to.
    """
    count = len(matrix)
    inner = list(itertools.product(range(operations), repeat=count - 2))
    labels = np.zeros((len(inner), count), dtype=np.uint64)
    labels[:, 0], labels[:, -1] = operations, operations + 1
    if count > 2:
        labels[:, 1:-1] = inner
    edges = np.array(matrix, dtype=np.uint64)
    degrees = edges.sum(axis=1) * np.uint64(64) + edges.sum(axis=0)
    hashes = _mixed(labels * np.uint64(4096) + degrees + np.uint64(1))
    for _ in range(count):
        incoming = _mixed(hashes ^ np.uint64(0x9E3779B97F4A7C15)) @ edges
        outgoing = _mixed(hashes ^ np.uint64(0xD1B54A32D192ED03)) @ edges.T
        hashes = _mixed(hashes + _mixed(incoming) * np.uint64(3) + _mixed(outgoing) * np.uint64(5))
    made: _Bits = _mixed(hashes).sum(axis=1, dtype=np.uint64)
    return made


def count_unique(
    max_vertices: int = MAX_VERTICES,
    max_edges: int = MAX_EDGES,
    operations: int = len(OPERATIONS),
) -> int:
    """Cells of 2 to ``max_vertices`` vertices that differ by the benchmark's isomorphism rule.

    For the published limits: 423,624.
    """
    found = [
        _fingerprints(matrix, operations)
        for vertices in range(2, max_vertices + 1)
        for matrix in topologies(vertices, max_edges)
    ]
    return len(np.unique(np.concatenate(found)))
