"""What can be read off the residual stream and the attention: lenses, direct attribution, patterns."""
