"""The explorer: one page that answers what happens for one alias, in every seed and along training."""
