"""Looking after a dataset by its features: what to correct, and what to label next."""
