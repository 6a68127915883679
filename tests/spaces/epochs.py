"""A search whose evaluator keeps a log of every epoch that it runs.

It goes on from its own checkpoint. What it computes depends on the trial's seed and decisions.
"""

import json
import os
import time
from pathlib import Path

from retiarii.mutators.choice import choice
from retiarii.seeding import derive
from retiarii.training.evaluator import Evaluator

LOG = Path(__file__).parent / "epochs.log"
EPOCHS = 4


class Epochs(Evaluator):
    metric = "accuracy"
    maximize = True
    merges = False

    def hyperparameters(self):
        return {"op": choice(["a", "b", "c", "a"], "op"), "width": choice(list(range(9)), "width")}

    def describe(self):
        return {"kind": "epochs", "epochs": EPOCHS}

    def run(self, cohort):
        running = [self.train(trial) for trial in cohort]
        while running:  # an epoch of each
            running = [each for each in running if next(each, "done") != "done"]

    def train(self, trial):
        trial.start()
        file = trial.directory / "state.json"
        state = {"epoch": 0, "value": 0.0, "history": []}
        if file.exists():
            state = json.loads(file.read_text())
        for epoch, value in enumerate(state["history"], 1):
            trial.report(epoch, accuracy=value)
        while state["epoch"] < EPOCHS:
            epoch = state["epoch"] + 1
            with LOG.open("a") as log:
                log.write(f"{trial.number} {epoch} {os.getpid()}\n")
            time.sleep(PAUSE)
            gain = derive(trial.seed, epoch, trial.decisions["op"], trial.decisions["width"])
            value = state["value"] + gain % 1000 / 4000
            state = {"epoch": epoch, "value": value, "history": [*state["history"], value]}
            trial.directory.mkdir(parents=True, exist_ok=True)
            file.with_suffix(".partial").write_text(json.dumps(state))
            file.with_suffix(".partial").replace(file)
            trial.report(epoch, accuracy=value)
            yield
        trial.finish(state["value"], {"accuracy": state["value"]})


PAUSE = 0.015
space = None
evaluator = Epochs()
