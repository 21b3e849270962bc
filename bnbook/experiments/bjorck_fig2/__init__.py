"""Bjorck et al. 2018, figure 2: gradients of the middle convolution at initialisation."""
