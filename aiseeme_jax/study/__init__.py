"""Studies: a config with fields that vary, over several pretraining seeds, and what can be said about its arms."""
