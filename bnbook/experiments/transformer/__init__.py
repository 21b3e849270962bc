"""BN in a Transformer, on text and on images, and PowerNorm's account of it."""
