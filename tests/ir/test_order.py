"""The order stays topological whatever edges are added, moved and taken back."""

from __future__ import annotations

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from retiarii.ir.edit.order import Order


def make(names: list[str]) -> Order:
    order = Order()
    for name in names:
        order.insert_after(name, order.last)
    return order


def test_insert_and_remove() -> None:
    order = make(["a", "b"])
    order.insert_after("c", "a")
    order.insert_after("d", None)
    assert list(order) == ["d", "a", "c", "b"]
    order.remove("a")
    assert list(order) == ["d", "c", "b"]
    keys = [order.key(n) for n in order]
    assert keys == sorted(keys)
    assert order.previous("d") is None
    assert order.previous("b") == "c"


def test_a_copy_is_independent() -> None:
    order = make(["a", "b"])
    twin = order.copy()
    twin.remove("a")
    assert list(order) == ["a", "b"]
    assert list(twin) == ["b"]


def test_more_insertions_than_the_keys_have_room_for() -> None:
    order = make(["first", "last"])
    for i in range(3000):
        order.insert_after(f"n{i}", "first")
    assert list(order) == ["first", *(f"n{i}" for i in reversed(range(3000))), "last"]
    keys = [order.key(n) for n in order]
    assert keys == sorted(set(keys))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(2, 12),
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=40),
)
def test_edges_in_any_order(count: int, edges: list[tuple[int, int]]) -> None:
    names = [f"n{i}" for i in range(count)]
    order = make(names)
    graph: nx.DiGraph = nx.DiGraph()
    graph.add_nodes_from(names)
    for a, b in edges:
        first, then = f"n{a % count}", f"n{b % count}"
        before = list(order)
        moved = order.put_before(first, then, graph.successors)
        makes_cycle = first == then or nx.has_path(graph, then, first)
        assert (moved is None) == makes_cycle
        if moved is None:
            assert list(order) == before
            continue
        after = list(order)
        order.put_back(moved)
        assert list(order) == before
        assert order.put_before(first, then, graph.successors) == moved
        assert list(order) == after
        graph.add_edge(first, then)
        place = {n: i for i, n in enumerate(order)}
        assert len(place) == count
        assert all(place[u] < place[v] for u, v in graph.edges)
        keys = [order.key(n) for n in order]
        assert keys == sorted(set(keys))
