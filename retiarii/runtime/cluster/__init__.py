"""Workers on a Ray cluster. Only `retiarii.runtime.cluster.connection` imports Ray."""
