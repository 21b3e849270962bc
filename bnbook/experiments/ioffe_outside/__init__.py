"""Ioffe & Szegedy 2015, section 2: statistics that stand outside the gradient."""
