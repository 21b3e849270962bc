"""Bjorck et al. 2018, section 4: the largest usable learning rate against depth."""
