"""Karakida, Akaho & Amari 2019: how sharp wide networks are at the start, BN placed anywhere."""
