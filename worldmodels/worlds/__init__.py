"""Where a controller lives: the real game, or the dream."""
