"""BN at a small rate from small weights, and at a large rate from large ones."""
