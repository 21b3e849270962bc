"""Jacobians at initialisation: Ioffe & Szegedy 2015, section 3.3, and Yang et al. 2019."""
