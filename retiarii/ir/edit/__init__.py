"""Edits of graphs, and the shapes that follow from them."""
