"""Which runs are missing, fused, trained and kept."""
