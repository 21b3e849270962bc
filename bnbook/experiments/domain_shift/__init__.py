"""Images that differ from those of training: statistics estimated again, at once or on the way."""
