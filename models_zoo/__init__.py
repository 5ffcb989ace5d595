"""Readable reference networks; ask `models_zoo.registry` for one by name."""
