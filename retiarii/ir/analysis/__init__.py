"""What a graph costs, and what repeats in it."""
