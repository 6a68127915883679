"""The parts of ``benchmarks/fusion.py``."""
