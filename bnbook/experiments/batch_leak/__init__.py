"""What leaks from one image of a minibatch to the others through BN's statistics."""
