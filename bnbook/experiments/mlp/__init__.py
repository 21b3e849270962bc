"""BN in fully connected networks, on a table and on images."""
