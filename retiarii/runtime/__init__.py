"""What a search keeps on disk, and the executors that run its trials."""
