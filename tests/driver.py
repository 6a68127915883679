"""Runs a search as a process of its own: FILE DIRECTORY OPTIONS."""

import json
import sys

from retiarii.experiment import Experiment
from retiarii.runtime.source import load_space_file

if __name__ == "__main__":
    file, directory, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    loaded = load_space_file(file)
    result = Experiment(
        loaded.space, loaded.evaluator, directory=directory, source=loaded, **options
    ).run()
    print(result.ended)
