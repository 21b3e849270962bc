"""What is read off a network, which is left as it was."""
