"""Failing to train at the paper's depth: 110 layers, 200 steps, against the rate."""
