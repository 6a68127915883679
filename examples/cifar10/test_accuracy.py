"""How good the best model of a search is on the test images, which no search has seen.

python examples/cifar10/test_accuracy.py runs/architecture
"""

import sys

import torch
from archive import from_environment

import retiarii as rt


def main(directory):
    best = rt.open_result(directory).best
    if best is None:
        raise SystemExit(f"the search in {directory} has no complete trial yet")
    cifar, model = from_environment(), best.load().eval()
    with torch.inference_mode():
        guesses = torch.cat([model(images).argmax(1) for images in cifar.test_x.split(500)])
    right = (guesses == cifar.test_y).float().mean().item()
    print(f"validation accuracy {best.score:.4f}, test accuracy {right:.4f}")


if __name__ == "__main__":
    main(sys.argv[1])
