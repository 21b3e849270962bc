"""Ioffe & Szegedy 2015, sections 2 and 3: what full whitening costs, and where it breaks."""
