"""The graph IR: one model as a dataflow graph in SSA form."""
