"""Internal covariate shift: three measures on the same runs."""
