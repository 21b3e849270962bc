"""Bjorck et al. 2018, figure 3: the loss along the negative gradient, at many step sizes."""
