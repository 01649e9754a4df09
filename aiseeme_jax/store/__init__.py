"""Files on disk: written whole or not at all, found by keys, described by records."""
