"""Structured pruning of PyTorch models: from a trained model to a smaller, verified one."""
