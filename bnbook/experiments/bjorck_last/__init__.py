"""Bjorck et al. 2018, section 3.1: BN at the last layer only, and at other choices of layers."""
