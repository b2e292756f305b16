"""What the viewer reads: a line for each thing that happened, with its time and its event."""

from itertools import cycle
from time import monotonic

from rich.console import Console, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

_ACTORS = {
    "http": "cyan",
    "domain": "magenta",
    "outbox": "yellow",
    "users": "cyan",
    "relay": "blue",
    "email": "green",
    "smtp": "bright_green",
    "dead": "red",
    "log": "dim",
    "other": "bright_red",
    "demo": "bold",
}
_TAG_COLOURS = ("bright_blue", "bright_magenta", "bright_cyan", "bright_yellow", "bright_green")


class Timeline:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = monotonic()
        self._colours = cycle(_TAG_COLOURS)
        self._tag_colours: dict[str, str] = {}
        self._correlation_ids: dict[str, str] = {}

    @property
    def elapsed(self) -> float:
        return monotonic() - self._began

    def recognise(self, email: str, correlation_id: str) -> None:
        """From now on, lines about this address have that correlation id."""
        self._correlation_ids[email] = correlation_id

    def correlation_id(self, email: str) -> str:
        return self._correlation_ids.get(email, "")

    def head(self) -> None:
        self._console.print(Text("seconds event  who     what", "dim"))

    def scene(self, number: int, title: str) -> None:
        self._console.print()
        self._console.print(Rule(Text(f"{number}  {title}", "bold"), align="left", style="dim"))

    def say(self, actor: str, text: str, correlation_id: str = "", *, style: str = "") -> None:
        self._line(actor, _ACTORS[actor], Text(text, style), correlation_id)

    def passed(self, what: str) -> None:
        self._line("ok", "green", Text(what))

    def missing(self, what: str) -> None:
        self._line("MISSING", "bold red", Text(what, "red"))

    def show(self, renderable: RenderableType) -> None:
        self._console.print(renderable)

    def _line(self, actor: str, colour: str, text: Text, correlation_id: str = "") -> None:
        line = Table.grid(padding=(0, 1))
        line.add_column(width=7, justify="right")
        line.add_column(width=6)
        line.add_column(width=7)
        line.add_column(overflow="fold")
        tag = correlation_id[-6:]
        line.add_row(
            Text(f"{self.elapsed:.3f}", "dim"),
            Text(tag, self._tag_colour(tag)),
            Text(actor, colour),
            text,
        )
        self._console.print(line)

    def _tag_colour(self, tag: str) -> str:
        if tag and tag not in self._tag_colours:
            self._tag_colours[tag] = next(self._colours)
        return self._tag_colours.get(tag, "")
