"""Ioffe & Szegedy 2015, section 3.2: BN before or after the nonlinearity."""
