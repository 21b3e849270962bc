"""Bjorck et al. 2018, figure 4: the update that diverges, applied bit by bit."""
