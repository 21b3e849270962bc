"""Bjorck et al. 2018, section 2.1: the noise of small minibatches, trained to the end."""
