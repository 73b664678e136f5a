"""Linear probes of a run's activations, beside their controls."""
