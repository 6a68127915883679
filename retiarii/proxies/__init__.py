"""Zero-cost proxies: what a model's first batch says of it, before it is trained."""
