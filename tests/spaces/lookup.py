"""Four widths, scored by a table."""

import torch
from torch import nn

import retiarii as rt


class Widen(rt.Mutator):
    def mutate(self, graph, target):
        graph.update(target, out_features=self.choice([2, 4, 8, 16], label="width"))


def score(trial):
    trial.report(1, half=trial.decisions["Widen/0/width"] / 2)
    return float(trial.decisions["Widen/0/width"])


space = rt.ModelSpace(
    nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), example_inputs=torch.zeros(2, 3)
)
space.apply_mutator("0", Widen())
evaluator = rt.Function(score)
