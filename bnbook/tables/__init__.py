"""Reading of result tables that several experiments share."""
