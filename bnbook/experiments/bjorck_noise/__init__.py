"""Bjorck et al. 2018, section 2.1: the noise of SGD, by rate and size of the minibatch."""
