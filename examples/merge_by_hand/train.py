"""Three models of different architecture train as one, without any search.

    python examples/merge_by_hand/train.py

A convolutional net, an MLP and a recurrent net learn scikit-learn's digits from the same batches,
with a loss of ours and an ordinary optimizer of torch. Then one of them is trained alone, and has
the same weights. Numbers are float64, so that what is left of a difference is rounding.
"""

import copy

import torch
from sklearn.datasets import load_digits
from torch import nn

import retiarii as rt

torch.manual_seed(0)
pixels, labels = load_digits(return_X_y=True)
x, y = torch.tensor(pixels).view(-1, 1, 8, 8) / 16, torch.tensor(labels)


class Rows(nn.Module):
    """Reads an image row by row."""

    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, images):
        return self.head(self.gru(images.squeeze(1))[0][:, -1])


conv = (nn.Conv2d(1, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(3), nn.Flatten())
mlp = (nn.Flatten(), nn.Linear(64, 32), nn.ReLU())
models = [nn.Sequential(*conv, nn.Linear(32, 10)), nn.Sequential(*mlp, nn.Linear(32, 10)), Rows()]
models = [model.double() for model in models]


def loss(scores, targets):
    """The focal loss: what is known already counts less (Lin et al., 2017)."""
    known = scores.log_softmax(1).gather(1, targets[:, None])
    return -((1 - known.exp()) ** 2 * known).mean()


def train(parameters, forward):
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    for _ in range(3):
        for images, targets in zip(x[:1500].split(50), y[:1500].split(50), strict=True):
            optimizer.zero_grad()
            sum(loss(scores, targets) for scores in forward(images)).backward()
            optimizer.step()


merged = rt.merge(models, example_inputs=x[:50])
train(merged.parameters(), merged)
trained = merged.unmerge()

print(merged.stats)
for name, model in zip(["convolutional", "MLP", "recurrent"], trained, strict=True):
    accuracy = (model.eval()(x[1500:]).argmax(1) == y[1500:]).double().mean()
    print(f"{name}: {accuracy:.3f}")

alone = copy.deepcopy(models[0])  # merging left it as it was
train(alone.parameters(), lambda images: [alone(images)])
for key, value in alone.state_dict().items():
    torch.testing.assert_close(trained[0].state_dict()[key], value, rtol=1e-9, atol=1e-9)
print("trained alone, the convolutional one has the same weights")
