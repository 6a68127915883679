"""Where workers can be on a cluster: from what Ray tells of its nodes."""

from __future__ import annotations

from typing import Any

import pytest

from retiarii.errors import RetiariiError
from retiarii.runtime.cluster.need import Need
from retiarii.runtime.cluster.spots import Names, Spot, spots_on


def _node(name: str, address: str = "10.0.0.1", **resources: float) -> dict[str, Any]:
    return {"NodeID": name, "NodeManagerAddress": address, "Resources": resources}


def _spots(nodes: list[dict[str, Any]], need: Need, workers: int | None = None) -> list[Spot]:
    return list(spots_on(nodes, Names().of(nodes), need, workers))


def test_a_node_without_gpus_is_one_device() -> None:
    (spot,) = _spots([_node("a", CPU=4)], Need())
    assert (spot.device.name, spot.device.kind, spot.cpus, spot.gpus) == (
        "10.0.0.1/cpu:0",
        "cpu",
        4.0,
        0.0,
    )


def test_workers_share_the_cpus_of_all_nodes() -> None:
    nodes = [_node("a", CPU=4), _node("b", "10.0.0.2", CPU=4)]
    spots = _spots(nodes, Need(), workers=3)
    assert [(s.node, s.cpus) for s in spots] == [("a", 2.0), ("a", 2.0), ("b", 2.0)]


@pytest.mark.parametrize(("cpus", "count"), [(1.0, 4), (0.5, 8), (3.0, 1), (5.0, 0)])
def test_a_worker_takes_as_many_cpus_as_it_is_given(cpus: float, count: int) -> None:
    spots = _spots([_node("a", CPU=4)], Need(cpus=cpus))
    assert [s.cpus for s in spots] == [cpus] * count


@pytest.mark.parametrize("part", range(1, 60))
def test_parts_of_a_gpu(part: int) -> None:
    """As many as fit; also where a float's part of 1 is a little more than it should be."""
    spots = _spots([_node("a", GPU=2, CPU=120)], Need(gpus=1 / part))
    assert len(spots) == 2 * part
    assert len({s.device.name for s in spots}) == 2 * part
    assert {s.device.name.split("/")[1] for s in spots} == {"cuda:0", "cuda:1"}
    assert sum(s.cpus for s in spots) <= 120


def test_whole_gpus() -> None:
    gpus = {"GPU": 5, "CPU": 8, "accelerator_type:H100": 1.0}
    spots = _spots([_node("a", **gpus)], Need(gpus=2))
    assert [(s.gpus, s.device.kind, s.cpus) for s in spots] == [(2, "H100", 4.0)] * 2


def test_a_node_has_no_more_workers_than_cpus_for_them() -> None:
    spots = _spots([_node("a", GPU=4, CPU=5)], Need(cpus=2.0))
    assert len(spots) == 2


def test_nodes_without_gpus_have_no_workers_where_others_have_gpus() -> None:
    nodes = [_node("a", CPU=64), _node("b", "10.0.0.2", GPU=1, CPU=2)]
    assert [s.node for s in _spots(nodes, Need())] == ["b"]
    assert [s.node for s in _spots(nodes, Need(gpus=0))] == ["a", "b"]


def test_nodes_of_one_address_have_names_of_their_own_and_keep_them() -> None:
    names = Names()
    first, second, third = (_node(n, CPU=1) for n in "abc")
    assert names.of([first]) == {"a": "10.0.0.1"}
    assert names.of([second, first]) == {"a": "10.0.0.1", "b": "10.0.0.1-2"}
    assert names.of([second]) == {"b": "10.0.0.1-2"}
    assert names.of([second, third]) == {"b": "10.0.0.1-2", "c": "10.0.0.1"}


@pytest.mark.parametrize(
    "given", [{"gpus": 1.5}, {"gpus": -1.0}, {"cpus": 0.0}, {"cpus": float("nan")}]
)
def test_what_no_worker_can_take(given: dict[str, float]) -> None:
    with pytest.raises(RetiariiError, match="cannot take"):
        Need(**given)
