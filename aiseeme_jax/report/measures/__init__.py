"""What the command `metrics` shows: all measures of an arm, computed from its stored predictions."""
