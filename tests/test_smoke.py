"""The whole path in seconds: sample, build, train a step, export, run what was exported."""

from __future__ import annotations

import torch
from torch import nn

import retiarii as rt


class Widen(rt.Mutator):
    def mutate(self, graph: rt.Graph, target: rt.Node) -> None:
        graph.update(target, out_channels=self.choice([4, 8], label="channels"))


def test_from_a_space_to_plain_pytorch() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 16, 3)
    )
    space = rt.ModelSpace(net, example_inputs=torch.zeros(2, 1, 4, 4))
    space.apply_mutator("0", Widen())
    candidate = space.sample(seed=0)
    model = candidate.build(seed=0)
    assert model[3].in_features == candidate.decisions["Widen/0/channels"] * 16  # type: ignore

    x, y = torch.randn(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    before = nn.functional.cross_entropy(model(x), y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before.backward()
    optimizer.step()
    assert nn.functional.cross_entropy(model(x), y) < before

    names: dict[str, type[nn.Module]] = {}
    exec(candidate.graph.to_source(), names)
    plain = names["Model"]()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain(x), model(x))
