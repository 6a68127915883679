"""Rules that edit graphs, and the choices they ask for."""
