"""Fusion rules, a family a file."""
