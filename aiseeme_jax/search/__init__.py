"""Searches for an order of pretext tasks: strategies, proxies that score a backbone, and what they find."""
