"""Adapters of the domain half to libraries, each behind an extra of its own."""
