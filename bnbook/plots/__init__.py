"""Style and drawing that several figures share."""
