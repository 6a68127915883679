"""Tracing: running a model's forward on tensors without storage, and recording what it calls."""
