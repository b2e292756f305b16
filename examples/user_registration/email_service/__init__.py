"""Writes to people. Knows of users only what it is told."""
