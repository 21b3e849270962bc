"""Bjorck et al. 2018, table 1: what cancels in a kernel's gradient at initialisation."""
