"""The parts of the benchmark of dispatch."""
