"""Bjorck et al. 2018, section 4: products of random matrices, and real networks' Jacobians."""
