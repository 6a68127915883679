"""From a graph to an ``nn.Module`` and to source code."""
