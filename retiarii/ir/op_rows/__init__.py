"""The rows of the op table, one module for each family of operations."""
