"""One small CNN, and how to train it: learning rate, momentum, weight decay."""

import torch
from digits_data import BATCH, RATES, digits, epochs
from torch import nn

import retiarii as rt

data = digits()
model = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1, bias=False),
    nn.BatchNorm2d(8),
    nn.ReLU(),
    nn.Conv2d(8, 16, 3, 2, padding=1, bias=False),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.Conv2d(16, 16, 3, padding=1, bias=False),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(16, 10),
)
space = rt.ModelSpace(model, example_inputs=torch.zeros(2, 1, 8, 8))
evaluator = rt.Supervised(
    (data.train_x, data.train_y),
    (data.val_x, data.val_y),
    loss=nn.CrossEntropyLoss(),
    optimizer=rt.SGD(
        lr=rt.loguniform(*RATES),
        momentum=rt.uniform(0.0, 0.95),
        weight_decay=rt.loguniform(1e-5, 1e-2),
    ),
    schedule="cosine",
    batch_size=BATCH,
    epochs=epochs(),
)
