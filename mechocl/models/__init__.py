"""Models: the seam that analyses see them through, loading and converting them, taking them apart."""
