"""One BN layer, and a scaled start, in a network that needs BN and is trained to the end."""
