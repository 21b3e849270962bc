"""How fast the package trains, against what a reader would use instead, measured in one run."""
