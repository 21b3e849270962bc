"""Ioffe & Szegedy 2015, sections 3.1, 3.2 and 5: other optimisers, and the shape of BN's input."""
