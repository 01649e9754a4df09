"""Published supervised systems, each beside the plain backbone: see docs/systems.md."""
