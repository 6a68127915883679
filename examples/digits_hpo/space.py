"""Hyper-parameter search only: one fixed model, no mutators.

Every field of an optimizer or a schedule may be a choice. Here the model stays as it is, and the
search looks for how to train it: learning rate, momentum, weight decay, and how long to warm up.

    retiarii run examples/digits_hpo/space.py --out runs/digits_hpo --trials 24
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import retiarii as rt

model = nn.Sequential(
    nn.Flatten(),
    nn.Linear(64, 64),
    nn.ReLU(),
    nn.Dropout(0.2),
    nn.Linear(64, 32),
    nn.ReLU(),
    nn.Linear(32, 10),
)


def digits():
    """1,797 images of 8 by 8 pixels in ten classes: 1,200 to train on, the rest to score."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, val = order[:1200], order[1200:]
    return TensorDataset(x[train], y[train]), TensorDataset(x[val], y[val])


train_data, val_data = digits()

space = rt.ModelSpace(model, example_inputs=torch.zeros(2, 1, 8, 8))

evaluator = rt.Supervised(
    train_data,
    val_data,
    loss=nn.CrossEntropyLoss(label_smoothing=0.05),
    optimizer=rt.SGD(
        lr=rt.loguniform(1e-3, 1.0),
        momentum=rt.uniform(0.0, 0.95),
        weight_decay=rt.choice([0.0, 1e-5, 1e-4, 1e-3]),
    ),
    schedule=rt.WarmUp(part=rt.choice([0.0, 0.1, 0.2, 0.4]), then="cosine"),
    batch_size=64,
    epochs=10,
    metric="accuracy",
)
