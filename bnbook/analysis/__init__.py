"""From an experiment's table to numbers: measures, claims and facts. Nothing here needs torch."""
