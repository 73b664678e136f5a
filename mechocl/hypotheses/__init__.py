"""Explanations of the gap between tags: what each predicts, what was measured, and the verdict."""
