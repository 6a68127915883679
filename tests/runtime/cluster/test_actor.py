"""A worker of a cluster, without one: on a machine that does not see the search's directory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retiarii.runtime.cluster.actor import Word, Worker
from retiarii.runtime.job import Job, JobTrial
from retiarii.runtime.source import load_space_file

_SPACE = """
from retiarii.mutators.choice import choice
from retiarii.training.evaluator import Evaluator

class Reads(Evaluator):
    metric, maximize, merges = "score", True, False

    def hyperparameters(self):
        return {"x": choice([1, 2], "x")}

    def describe(self):
        return {"kind": "reads"}

    def run(self, cohort):
        (trial,) = cohort
        trial.start()
        (trial.directory / "mine.txt").write_text("new")
        found = [trial.directory / "begun.txt", trial.parent / "parent.txt"]
        trial.report(1, score=sum(float(path.read_text()) for path in found))
        trial.finish(1.0)

space = None
evaluator = Reads()
"""
Start = Callable[[], Worker]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    file = tmp_path / "space.py"
    file.write_text(_SPACE)
    probe = (str(tmp_path / "not there"), "token")
    workers: list[Worker] = []

    def make() -> Worker:
        workers.append(Worker(str(file), load_space_file(file).digest, 1, probe, False))
        return workers[-1]

    yield make
    for worker in workers:
        worker.put(1, json.dumps({"kind": "quit"}), {})
        worker.leave()


def _until(worker: Worker, kind: str) -> list[tuple[dict[str, Any], Word]]:
    words: list[tuple[dict[str, Any], Word]] = []
    deadline = time.monotonic() + 60
    while not any(message["kind"] == kind for message, _ in words):
        assert time.monotonic() < deadline, words
        words += [(json.loads(word[0]), word) for word in worker.listen(0.2)]
    return words


def test_what_a_trial_goes_on_from_is_brought_and_what_it_wrote_comes_back(start: Start) -> None:
    place, parent = Path("/far away/trials/3"), Path("/far away/trials/1")
    job = Job((JobTrial(3, 0, 0, (("x", 0),), place, parent=parent),), 0)
    files = {str(place): {"begun.txt": b"2"}, str(parent): {"parent.txt": b"40"}}
    worker = start()
    assert worker.facts()["shares"] is False
    worker.put(0, json.dumps({"kind": "job", "job": job.to_json()}), files)
    words = _until(worker, "done")
    events = [json.loads(message["event"]) for message, _ in words if message["kind"] == "event"]
    assert [e["metrics"] for e in events if "step" in e] == [{"score": 42.0}]
    sent = [word[1:] for _, word in words if word[2]]
    assert sent == [(3, {"mine.txt": b"new"})]


def test_a_job_that_cannot_be_taken_in_is_told(start: Start) -> None:
    job = Job((JobTrial(3, 0, 0, (("x", 0),), Path("/far/trials/3")),), 0)
    worker = start()
    worker.put(0, json.dumps({"kind": "job", "job": job.to_json()}), {"/far/trials/3": {"..": b""}})
    (error,) = [m["error"] for m, _ in _until(worker, "broken") if m["kind"] == "broken"]
    assert "no plain file name" in error["cause"]
    worker.put(1, json.dumps({"kind": "nothing"}), {})


def test_messages_are_taken_in_the_order_in_which_they_were_sent(start: Start) -> None:
    place = Path("/far/trials/0")
    job = Job((JobTrial(0, 0, 0, (("x", 0),), place, parent=place),), 0)
    worker = start()
    worker.put(1, json.dumps({"kind": "quit"}), {})
    worker.put(
        0,
        json.dumps({"kind": "job", "job": job.to_json()}),
        {str(place): {"begun.txt": b"1", "parent.txt": b"1"}},
    )
    kinds = [message["kind"] for message, _ in _until(worker, "done")]
    assert kinds[-1] == "done"
