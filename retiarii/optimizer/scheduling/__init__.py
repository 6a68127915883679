"""Which nodes run together, and when: batching a forest of dataflow graphs."""
