"""The canonical form: equal for graphs that compute the same family of functions."""
