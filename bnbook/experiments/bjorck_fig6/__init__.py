"""Bjorck et al. 2018, figure 6: gradients of the network's outputs at initialisation."""
