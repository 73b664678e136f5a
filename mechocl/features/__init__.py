"""Sparse dictionaries of a model's activations: trained, judged, searched and tested."""
