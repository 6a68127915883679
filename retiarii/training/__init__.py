"""Evaluators, and what trains a model for them."""
