"""The papers' networks, and how their weights start."""
