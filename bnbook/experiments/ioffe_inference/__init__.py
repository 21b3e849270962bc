"""Ioffe & Szegedy 2015, section 3.1 and Algorithm 2: what the statistics for inference cost."""
