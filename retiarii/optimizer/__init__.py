"""The cross-model optimizer: many models, one program."""
