"""What an update does: gradients and their alignment, single steps, and training with one thing changed."""
