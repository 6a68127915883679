"""Several objectives: what is measured of a model, which trials no other beats, and limits."""
