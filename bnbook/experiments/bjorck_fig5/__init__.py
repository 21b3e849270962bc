"""Bjorck et al. 2018, figure 5: channel means and variances at initialisation against depth."""
