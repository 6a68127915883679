"""A space file whose trials compute on one core, and nothing that another could take over."""

import os

import retiarii as rt

ROUNDS = int(os.environ.get("RETIARII_BENCH_ROUNDS", "4000000"))


def score(trial):
    x, total = trial.hyperparameters["x"], 0
    for each in range(ROUNDS):
        total += each & x
    return float(total)


space = None
evaluator = rt.Function(score, hyperparameters={"x": rt.choice(list(range(1, 1000)))})
