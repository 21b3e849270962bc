"""Normalisation at small minibatches: BN, its cures, and norms that need no batch."""
