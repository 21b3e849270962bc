"""The training loop, its steps, and how a run is carried out."""
