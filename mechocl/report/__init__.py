"""From results to figures, and from figures to self-contained pages."""
