"""Weak and strong internalization, computed from answers over seeds, and how they are put in words and numbers."""
