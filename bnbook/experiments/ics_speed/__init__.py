"""Internal covariate shift against speed: noise, single moments, frozen statistics, landscape."""
