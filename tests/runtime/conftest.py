from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

import retiarii

# A search whose evaluator keeps a log of every epoch that it runs, and goes on from its own
# checkpoint; what it computes depends on the trial's seed and decisions alone.
SPACE = """
import json, os, time
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
                log.write(f"{trial.number} {epoch} {os.getpid()}\\n")
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
"""

DRIVER = """
import json, sys
from retiarii.experiment import Experiment
from retiarii.runtime.source import load_space_file

if __name__ == "__main__":
    file, directory, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    loaded = load_space_file(file)
    result = Experiment(
        loaded.space, loaded.evaluator, directory=directory, source=loaded, **options
    ).run()
    print(result.ended)
"""


@pytest.fixture(autouse=True)
def package_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes find this package, installed or not."""
    monkeypatch.setenv("PYTHONPATH", str(Path(retiarii.__file__).parents[1]))


@pytest.fixture
def space_file(tmp_path: Path) -> Path:
    file = tmp_path / "project" / "space.py"
    file.parent.mkdir()
    file.write_text(textwrap.dedent(SPACE))
    return file


@pytest.fixture
def cohort_file(space_file: Path) -> Path:
    """The same search, whose evaluator takes trials together: it runs an epoch of each in turn."""
    text = space_file.read_text()
    assert text.count("merges = False") == 1
    space_file.write_text(text.replace("merges = False", "merges = True"))
    return space_file


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    file = tmp_path / "driver.py"
    file.write_text(textwrap.dedent(DRIVER))
    return file
