"""BN in an LSTM, on pixels and on characters."""
