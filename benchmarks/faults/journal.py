"""What the programs wrote down, read while they write."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Note(NamedTuple):
    """One line: what happened, to which number, when (`time.monotonic`), and details."""

    word: str
    number: int
    at: float
    detail: str


class Journal:
    """The notes of one role; programs that follow one another write into the same file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self._read = 0
        self._notes: list[Note] = []

    @property
    def notes(self) -> list[Note]:
        """All whole lines so far, oldest first."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode().splitlines():
            word, number, at, detail = line.split(" ", 3)
            self._notes.append(Note(word, int(number), float(at), detail))
        return self._notes

    def of(self, word: str) -> list[Note]:
        return [note for note in self.notes if note.word == word]

    def numbers(self, word: str) -> list[int]:
        return [note.number for note in self.of(word)]
