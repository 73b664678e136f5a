"""Worlds small enough to understand whole: tasks, architectures and training."""
