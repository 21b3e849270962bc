"""Ioffe & Szegedy 2015, section 3.3: BN((aW)u) = BN(Wu), and what eps changes, in float64."""
