"""NAS-Bench-201's cells, one a stage, with 8 channels; and the learning rate."""

from digits_data import BATCH, RATES, WEIGHT_DECAY, digits, epochs
from torch import nn

import retiarii as rt
from retiarii.spaces import nas_bench_201

data = digits(channels=3)
space = nas_bench_201(channels=8, cells=1, input_size=8)
evaluator = rt.Supervised(
    (data.train_x, data.train_y),
    (data.val_x, data.val_y),
    loss=nn.CrossEntropyLoss(),
    optimizer=rt.SGD(lr=rt.loguniform(*RATES), momentum=0.9, weight_decay=WEIGHT_DECAY),
    schedule="cosine",
    batch_size=BATCH,
    epochs=epochs(),
)
