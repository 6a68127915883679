"""A search by Optuna and a training loop of plain PyTorch, in a process of its own.

As a good engineer writes it for models this small: the data lies in memory as tensors, a batch is
one indexing, the optimizer is the fused one, gradients are dropped rather than zeroed, no number
is read from a tensor but a score an epoch, and only the best weights are written.

    python plain.py TASK OUT.json [--enqueue FILE] [--sampler tpe] [--trials N] [--threads N]
                    [--channels-last] [--compile] [--processes N] [--seed N] --spawned SECONDS
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optuna
import torch
from by_hand import CHANNELS, RECIPES, Recipe
from digits_data import BATCH, Digits, digits, epochs
from torch import nn
from torch.nn import functional as F


def train(
    recipe: Recipe, data: Digits, seed: int, layout: torch.memory_format, compiled: bool
) -> tuple[float, nn.Module]:
    """The accuracy after the last epoch, and the model."""
    torch.manual_seed(seed)
    model = recipe.model().to(memory_format=layout)  # type: ignore[call-overload]
    called = torch.compile(model, dynamic=False) if compiled else model
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    (group,) = optimizer.param_groups
    order = torch.Generator().manual_seed(0)
    count, last = len(data.train_y), epochs()
    steps, step = last * math.ceil(count / BATCH), 0
    accuracy = 0.0
    for _ in range(last):
        model.train()
        for batch in torch.randperm(count, generator=order).split(BATCH):
            group["lr"] = recipe.lr * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(called(data.train_x[batch]), data.train_y[batch]).backward()
            optimizer.step()
            step += 1
        model.eval()
        with torch.inference_mode():
            right = model(data.val_x).argmax(1) == data.val_y
            accuracy = right.float().mean().item()
    return accuracy, model


def _study(given: argparse.Namespace) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    several = given.processes > 1
    sampler: optuna.samplers.BaseSampler = (
        optuna.samplers.TPESampler(seed=given.seed, multivariate=True, constant_liar=several)
        if given.sampler == "tpe"
        else optuna.samplers.RandomSampler(seed=given.seed)
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    if given.enqueue is not None:
        for decisions in json.loads(given.enqueue.read_text())[: given.trials]:
            study.enqueue_trial(decisions)
    return study


class Best:
    """Every score with its time, and the best weights on disk."""

    def __init__(self, spawned: float, weights: Path) -> None:
        self.scores: list[tuple[float, float]] = []
        self._spawned, self._weights = spawned, weights

    def add(self, score: float, model: nn.Module | None) -> None:
        if model is not None and score > max((s for _, s in self.scores), default=-1.0):
            torch.save(model.state_dict(), self._weights)
        self.scores.append((time.time() - self._spawned, score))


def _layout(given: argparse.Namespace) -> torch.memory_format:
    return torch.channels_last if given.channels_last else torch.contiguous_format


def _data(task: str, layout: torch.memory_format) -> Digits:
    data = digits(CHANNELS[task])
    x, val_x = (t.contiguous(memory_format=layout) for t in (data.train_x, data.val_x))
    return data._replace(train_x=x, val_x=val_x)


def _one_by_one(given: argparse.Namespace, study: optuna.Study, best: Best) -> None:
    layout = _layout(given)
    data = _data(given.task, layout)
    for number in range(given.trials):
        trial = study.ask()
        score, model = train(RECIPES[given.task](trial), data, number, layout, given.compile)
        study.tell(trial, score)
        best.add(score, model)


_worker: dict[str, Any] = {}


def _begin(task: str, layout: torch.memory_format) -> None:
    torch.set_num_threads(1)
    _worker["data"], _worker["layout"] = _data(task, layout), layout


def _train_there(task: str, params: dict[str, Any], seed: int, weights: str) -> float:
    recipe = RECIPES[task](optuna.trial.FixedTrial(params))  # type: ignore[arg-type]
    score, model = train(recipe, _worker["data"], seed, _worker["layout"], False)
    torch.save(model.state_dict(), weights)
    return score


def _by_processes(given: argparse.Namespace, study: optuna.Study, best: Best) -> None:
    waiting = iter(range(given.trials))
    running: dict[Future[float], optuna.Trial] = {}
    begin = (given.task, _layout(given))
    with ProcessPoolExecutor(
        given.processes, get_context("spawn"), initializer=_begin, initargs=begin
    ) as pool:

        def fill() -> Iterator[None]:
            for number in waiting:
                trial = study.ask()
                RECIPES[given.task](trial)
                weights = str(given.out.with_suffix(f".{number}.pt"))
                args = (given.task, trial.params, number, weights)
                running[pool.submit(_train_there, *args)] = trial
                yield

        more = fill()
        for _ in range(given.processes):
            next(more, None)
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                study.tell(running.pop(future), future.result())
                best.add(future.result(), None)
                next(more, None)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=RECIPES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--enqueue", type=Path)
    parser.add_argument("--sampler", choices=["random", "tpe"], default="random")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spawned", type=float, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    best = Best(given.spawned, given.out.with_suffix(".pt"))
    study = _study(given)
    (_by_processes if given.processes > 1 else _one_by_one)(given, study, best)
    given.out.write_text(json.dumps({"scores": best.scores, "cpu": time.process_time()}))


if __name__ == "__main__":
    main()
