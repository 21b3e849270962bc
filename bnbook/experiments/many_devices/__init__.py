"""Data-parallel training: statistics of each replica, synchronised statistics, and frozen ones."""
