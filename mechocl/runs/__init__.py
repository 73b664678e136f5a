"""Recipes, the run directory, training and fine-tuning, and where jobs run."""
