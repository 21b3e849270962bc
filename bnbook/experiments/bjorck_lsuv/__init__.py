"""Initial weights scaled once, against BN: an argument of Bjorck et al. 2018, section 5."""
