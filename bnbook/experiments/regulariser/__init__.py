"""BN as a regulariser: Dropout, L2, the noise of its minibatches, and how these are composed."""
