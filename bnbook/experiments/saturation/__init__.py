"""Sigmoid and tanh networks, shallow and deep: what saturates, and what trains."""
