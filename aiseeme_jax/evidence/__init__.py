"""Evidence about representations, beside their scores."""
