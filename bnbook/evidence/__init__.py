"""Records, the digests of their source, claims and the ledger."""
