"""Ioffe & Szegedy 2015, Algorithm 2 and sections 3.2 and 3.4: what holds exactly, and rounding."""
