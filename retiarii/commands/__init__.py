"""One command a file, and what they share."""
