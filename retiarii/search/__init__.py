"""The controller of a search: its loop, its trials on their way, how it begins and ends."""
