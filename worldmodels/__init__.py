"""World Models: an agent that learns a small model of its world from pixels, then learns to act inside it."""
