"""What else than BN allows large rates: the standing objections to Bjorck et al.'s figure 1."""
