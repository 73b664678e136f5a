"""Linear probes: fitting, splits and controls. They take arrays, give scores, and know nothing of models."""
