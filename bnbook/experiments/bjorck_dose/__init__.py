"""Growth of the activations at the start as a dose, BN's gain as the response."""
