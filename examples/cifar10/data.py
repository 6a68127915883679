"""What both steps train on, and score with."""

import os

import torch
from archive import from_environment
from torch import nn
from torch.utils.data import Dataset

VALIDATION = 5_000


class Augmented(Dataset):
    """Moves an image by up to four pixels, and mirrors every second one.

    What it draws comes from a stream that follows from the search's seed: all trials see the same
    images in the same order, and are compared by what they are.
    """

    def __init__(self, images, labels):
        self.images = nn.functional.pad(images, (4, 4, 4, 4))
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        top, left, mirrored = torch.randint(18, (3,)).tolist()
        top, left = top // 2, left // 2
        image = self.images[index, :, top : top + 32, left : left + 32]
        return (image.flip(-1) if mirrored % 2 else image), self.labels[index]


class Normalize(nn.Module):
    """Bytes to numbers with mean 0 and spread 1; part of the model, so that it is exported, too."""

    def __init__(self):
        super().__init__()
        # Of the training images, by channel.
        self.register_buffer("mean", torch.tensor([125.3, 123.0, 113.9]).view(3, 1, 1))
        self.register_buffer("spread", torch.tensor([63.0, 62.1, 66.7]).view(3, 1, 1))

    def forward(self, images):
        return (images.float() - self.mean) / self.spread


def splits():
    """Training and validation data; the test images are left for the very end.

    ``$CIFAR10_IMAGES`` bounds the training images, to see on a laptop that it works.
    """
    cifar = from_environment()
    order = torch.randperm(len(cifar.train_y), generator=torch.Generator().manual_seed(0))
    held = min(VALIDATION, len(order) // 5)
    val, train = order[:held], order[held:][: int(os.environ.get("CIFAR10_IMAGES", len(order)))]
    x, y = cifar.train_x, cifar.train_y
    return Augmented(x[train], y[train]), (x[val], y[val])
