"""Ioffe & Szegedy 2015, sections 3 and 3.2: the identity, the singular covariance, the bias."""
