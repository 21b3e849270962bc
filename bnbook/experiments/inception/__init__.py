"""A small Inception on whole CIFAR-10: the five networks of figure 3, and an ensemble."""
