"""A page on one's own machine that makes clips and plays them at once."""
