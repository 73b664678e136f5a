"""Models: what analyses see of them, how they are loaded and converted, and how they are taken apart."""
