"""Worlds that are small enough to understand completely: tasks, architectures and training."""
