"""Fifteen epochs at the paper's depth: 110 layers, with BN and without, at both best rates."""
