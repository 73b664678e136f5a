"""Self-contained HTML: one report file, with figures and attention patterns that its reader can explore."""
