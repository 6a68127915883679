"""Architecture search with mutators: a small CNN for scikit-learn's handwritten digits.

The base model is a plain PyTorch module. Two mutators say how it may change: `Width` tries other
numbers of channels, and `Branches` replaces a layer by several that run side by side. Nothing
else has to be adapted by hand: layers behind a change get their input sizes from the compiler.

    retiarii run examples/digits/space.py --out runs/digits --trials 24
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import retiarii as rt


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.block1 = nn.Conv2d(16, 16, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.block2 = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Sequential(
            nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
        )

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(self.block1(x))
        return self.head(self.block2(self.pool(x)))


class Width(rt.Mutator):
    """Other numbers of channels."""

    def mutate(self, graph, target):
        graph.update(target, out_channels=self.choice([8, 16, 24, 32], label="channels"))


class Branches(rt.Mutator):
    """One to three layers side by side, each of its own kind, concatenated."""

    def mutate(self, graph, target):
        (x,) = target.inputs
        channels = x.shape[1]
        branches = []
        for i in range(self.choice([1, 2, 3], label="branches")):
            kind = self.choice(["conv3", "conv1", "depthwise", "maxpool"], label=f"op{i}")
            if kind == "conv3":
                layer = nn.Conv2d(channels, 16, 3, padding=1)
            elif kind == "conv1":
                layer = nn.Conv2d(channels, 16, 1)
            elif kind == "depthwise":
                layer = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
            else:
                layer = nn.MaxPool2d(3, stride=1, padding=1)
            branches.append(graph.insert(layer, x, name=f"{target.name}_{kind}"))
        graph.replace(target, graph.insert(torch.cat, branches, dim=1, name=f"{target.name}_all"))


def digits():
    """1,797 images of 8 by 8 pixels in ten classes: 1,200 to train on, the rest to score."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, val = order[:1200], order[1200:]
    return TensorDataset(x[train], y[train]), TensorDataset(x[val], y[val])


train_data, val_data = digits()

space = rt.ModelSpace(Net(), example_inputs=torch.zeros(2, 1, 8, 8))
space.apply_mutator("stem.0", Width())
space.apply_mutator(["block1", "block2"], Branches())

evaluator = rt.Supervised(
    train_data,
    val_data,
    loss=nn.CrossEntropyLoss(),
    optimizer=rt.SGD(lr=rt.loguniform(0.02, 0.5), momentum=0.9, weight_decay=1e-4),
    schedule="cosine",
    batch_size=64,
    epochs=6,
    metric="accuracy",
)
