"""Two widths, trained for an epoch."""

import torch
from torch import nn

import retiarii as rt


class Widen(rt.Mutator):
    def mutate(self, graph, target):
        graph.update(target, out_features=self.choice([4, 8], label="width"))


x = torch.linspace(-1, 1, 96).reshape(32, 3)
y = (x.sum(1) > 0).long()
space = rt.ModelSpace(
    nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), example_inputs=torch.zeros(2, 3)
)
space.apply_mutator("0", Widen())
evaluator = rt.Supervised(
    (x, y),
    (x, y),
    loss=nn.CrossEntropyLoss(),
    optimizer=rt.SGD(lr=0.1),
    epochs=2,
    metric="accuracy",
)
