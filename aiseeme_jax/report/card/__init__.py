"""MODEL_CARD.md: what the backbone of a curriculum is, what it was trained on, what it scores, what is not known."""
