"""Residual networks without BN where BN has a gain; networks that learn gamma and beta alone."""
