"""Text worlds: entities with attributes, questions about them, definitions of their aliases."""
