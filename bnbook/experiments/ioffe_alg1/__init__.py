"""Ioffe & Szegedy 2015, section 3: Algorithm 1 and its six backward equations, in float64."""
