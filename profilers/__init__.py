"""Measurements: latency and memory on this machine."""
