"""Training many models in one step: flat parameters, and everything that is kept per model."""
