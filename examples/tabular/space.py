"""Choices inside a model's own ``__init__``: an MLP for a table, with a depth of its own choice.

`ModelSpace` is given the class itself and runs it once a candidate. In it, `rt.choice` returns a
plain value, so that any Python may follow: here each layer that exists has its own width. The
table is scikit-learn's diabetes progression (442 people, 10 measurements, a score to predict).

    retiarii run examples/tabular/space.py --out runs/tabular --trials 24
"""

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import TensorDataset

import retiarii as rt

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


def diabetes():
    """342 people to train on, 100 to score; each measurement with mean 0 and spread 1."""
    table, progression = load_diabetes(return_X_y=True)
    x = torch.tensor(table, dtype=torch.float32)
    y = torch.tensor(progression, dtype=torch.float32)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, val = order[:342], order[342:]
    x = (x - x[train].mean(0)) / x[train].std(0)
    return TensorDataset(x[train], y[train]), TensorDataset(x[val], y[val])


train_data, val_data = diabetes()
MEAN, SPREAD = train_data.tensors[1].mean().item(), train_data.tensors[1].std().item()


class MLP(nn.Module):
    """Predicts in the table's own unit, so that the error can be read as it is."""

    def __init__(self):
        super().__init__()
        activation = ACTIVATIONS[rt.choice(list(ACTIVATIONS), label="activation")]
        layers = []
        features = 10
        for i in range(rt.choice([0, 1, 2, 3], label="depth")):
            width = rt.choice([8, 16, 32, 64], label=f"width{i}")
            layers += [nn.Linear(features, width), activation()]
            features = width
        dropout = rt.choice([0.0, 0.1, 0.3], label="dropout")
        self.body = nn.Sequential(*layers, nn.Dropout(dropout))
        self.out = nn.Linear(features, 1)

    def forward(self, x):
        return self.out(self.body(x)).squeeze(1) * SPREAD + MEAN


space = rt.ModelSpace(MLP, example_inputs=torch.zeros(2, 10))

evaluator = rt.Supervised(
    train_data,
    val_data,
    loss=nn.HuberLoss(delta=50.0),
    optimizer=rt.AdamW(lr=rt.loguniform(1e-3, 3e-2), weight_decay=rt.loguniform(1e-4, 1e-1)),
    schedule="cosine",
    batch_size=32,
    epochs=20,
    metric="mae",
)
