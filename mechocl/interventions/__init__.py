"""What an activation, an edge, a direction or a weight does: patching, circuits, grafts, steering, subspaces."""
