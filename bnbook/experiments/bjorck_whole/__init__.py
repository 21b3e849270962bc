"""Whole CIFAR-10: how the picture of a short training becomes that of a long one."""
