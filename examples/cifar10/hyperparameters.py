"""CIFAR-10, first step: how to train one small CNN.

Learning rate, momentum, weight decay and batch size; the model stays as it is. The second step is
``architecture.py``. The data is yours to download, see ``archive.py``.

    export CIFAR10=/path/to/cifar-10-python.tar.gz
    retiarii run examples/cifar10/hyperparameters.py --trials 32 --scheduler asha
"""

import torch
from data import splits
from network import Net
from torch import nn

import retiarii as rt

train_data, val_data = splits()

space = rt.ModelSpace(Net(), example_inputs=torch.zeros(2, 3, 32, 32, dtype=torch.uint8))

evaluator = rt.Supervised(
    train_data,
    val_data,
    loss=nn.CrossEntropyLoss(),
    optimizer=rt.SGD(
        lr=rt.loguniform(1e-3, 1.0),
        momentum=rt.uniform(0.5, 0.99),
        weight_decay=rt.loguniform(1e-5, 1e-2),
    ),
    schedule="cosine",
    batch_size=rt.choice([64, 128, 256]),
    epochs=9,
    metric="accuracy",
)
