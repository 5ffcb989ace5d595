"""Reinforcement learning: the pruning environment, the agent and the search."""
