"""Training: examples and rewards in, checkpoints out."""
