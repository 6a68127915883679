"""A cluster that is played, event by event, with the product's own dispatcher."""
