"""Bjorck et al. 2018, section 2 and figure 1: residual networks with and without BN, by rate."""
