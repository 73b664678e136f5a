"""What an update does: the gradients of single examples, and how they are aligned."""
