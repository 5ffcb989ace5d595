"""Agents: AMC, AGMC and GNN-RL, each a stable-baselines3 algorithm on the one environment."""
