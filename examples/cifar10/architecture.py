"""CIFAR-10, second step: which CNN, trained as the first step found best.

The first step is ``hyperparameters.py``; its directory is ``runs/hyperparameters``, or what
``$CIFAR10_FIRST`` says. At the end, the test images say how good the winner is:

    export CIFAR10=/path/to/cifar-10-python.tar.gz
    retiarii run examples/cifar10/architecture.py --trials 64 --scheduler asha
    python examples/cifar10/test_accuracy.py runs/architecture
"""

import os

import torch
from data import splits
from network import Net
from torch import nn

import retiarii as rt

FIRST = os.environ.get("CIFAR10_FIRST", "runs/hyperparameters")
KINDS = ["conv3", "conv5", "separable"]

best = rt.open_result(FIRST).best
if best is None:
    raise SystemExit(f"the search in {FIRST} has no complete trial yet")
found = best.decisions
train_data, val_data = splits()


def searched():
    first = rt.choice([16, 24, 32], label="width")
    growth = rt.choice([1, 2], label="growth")
    return Net(
        widths=[first * growth**stage for stage in range(3)],
        kinds=[rt.choice(KINDS, label=f"kind{stage}") for stage in range(3)],
        depth=rt.choice([1, 2, 3], label="depth"),
        dropout=rt.choice([0.0, 0.1, 0.3], label="dropout"),
    )


space = rt.ModelSpace(searched, example_inputs=torch.zeros(2, 3, 32, 32, dtype=torch.uint8))

evaluator = rt.Supervised(
    train_data,
    val_data,
    loss=nn.CrossEntropyLoss(),
    optimizer=rt.SGD(
        lr=found["lr"], momentum=found["momentum"], weight_decay=found["weight_decay"]
    ),
    schedule="cosine",
    batch_size=found["batch_size"],
    epochs=9,
    metric="accuracy",
)
