"""The commands, one module each; see `events.cli`."""
