"""Ioffe & Szegedy 2015, section 4.1 and figure 1: a sigmoid network with and without BN."""
