"""A space file whose cohorts take as long as is asked for, and compute nothing."""

import json
import os
import time

from retiarii.mutators.choice import choice
from retiarii.training.evaluator import Evaluator

EPOCHS = 5
SECONDS = float(os.environ.get("RETIARII_BENCH_SECONDS", "1"))


class Sleeps(Evaluator):
    metric = "score"
    maximize = True
    merges = True

    def hyperparameters(self):
        return {"x": choice(list(range(1000)), "x")}

    def describe(self):
        return {"kind": "sleeps"}

    def run(self, cohort):
        for trial in cohort:
            trial.start()
        began = time.monotonic()
        for epoch in range(1, EPOCHS + 1):
            # What events cost is not slept through: the cohort's own time is the same everywhere.
            time.sleep(max(0.0, began + SECONDS * epoch / EPOCHS - time.monotonic()))
            for trial in cohort:
                trial.report(epoch, score=float(epoch), loss=1.0 / epoch, lr=0.1)
        for trial in cohort:
            if trial.directory is not None:
                trial.directory.mkdir(parents=True, exist_ok=True)
                (trial.directory / "state.json").write_text(json.dumps([1.0] * 100))
            trial.finish(float(trial.decisions["x"]))


space = None
evaluator = Sleeps()
