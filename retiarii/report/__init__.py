"""What came of a search, as numbers, as text and as pictures: one plot a file."""
