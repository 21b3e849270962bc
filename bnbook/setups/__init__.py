"""What several experiments share: data, networks and how they train."""
