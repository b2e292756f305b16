"""`events resume`: see `events pause`."""

from events.cli.commands.pause import add_arguments, run

__all__ = ["add_arguments", "run"]
