"""Supernets: one transformer that holds smaller ones, which are slices of its weights."""
