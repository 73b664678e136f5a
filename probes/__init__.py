"""Linear probes: fitting, splits and controls. Arrays in, scores out; no knowledge of models."""
