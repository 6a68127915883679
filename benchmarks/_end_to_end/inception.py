"""The space of the README: two to five branches, each of its own kind; and the learning rate."""

import torch
from digits_data import BATCH, RATES, WEIGHT_DECAY, digits, epochs
from torch import nn

import retiarii as rt


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.mixer = nn.MaxPool2d(3, stride=1, padding=1)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

    def forward(self, x):
        return self.head(self.mixer(self.stem(x)))


class Inception(rt.Mutator):
    def mutate(self, graph, target):
        (x,) = target.inputs
        branches = []
        for i in range(self.choice([2, 3, 4, 5], label="branches")):
            kind = self.choice(["conv", "depthwise", "maxpool"], label=f"op{i}")
            layer = {
                "conv": nn.Conv2d(16, 16, 3, padding=1),
                "depthwise": nn.Conv2d(16, 16, 3, padding=1, groups=16),
                "maxpool": nn.MaxPool2d(3, stride=1, padding=1),
            }[kind]
            branches.append(graph.insert(layer, x, name=f"branch{i}"))
        graph.replace(target, graph.insert(torch.cat, branches, dim=1, name="concat"))


data = digits()
space = rt.ModelSpace(Net(), example_inputs=torch.zeros(2, 1, 8, 8))
space.apply_mutator("mixer", Inception())
evaluator = rt.Supervised(
    (data.train_x, data.train_y),
    (data.val_x, data.val_y),
    loss=nn.CrossEntropyLoss(),
    optimizer=rt.SGD(lr=rt.loguniform(*RATES), momentum=0.9, weight_decay=WEIGHT_DECAY),
    schedule="cosine",
    batch_size=BATCH,
    epochs=epochs(),
)
