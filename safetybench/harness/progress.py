"""Progress on stderr with the time left: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress(Protocol):
    """What the engine tells while it works; items are counted."""

    def start(self, total: int, done: int) -> None:
        """Begin; done: items found finished in the log."""
        ...

    def advance(self, cell: str, items: int) -> None:
        """Count items of a chunk that is now in the log."""
        ...

    def say(self, message: str) -> None:
        """Show one sentence."""
        ...

    def within(self, message: str) -> None:
        """Show how far one long piece of work is; called often."""
        ...

    def stop(self) -> None:
        """End; the terminal is as it was."""
        ...


class Silent:
    """No progress: for the pytest plugin and for --quiet."""

    def start(self, total: int, done: int) -> None:
        """Do nothing."""

    def advance(self, cell: str, items: int) -> None:
        """Do nothing."""

    def say(self, message: str) -> None:
        """Do nothing."""

    def within(self, message: str) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


@dataclass(kw_only=True)
class Lines:
    """One line every so many seconds: for logs of a CI."""

    stream: TextIO
    every_seconds: float = 10.0
    _total: int = field(default=0, init=False)
    _done: int = field(default=0, init=False)
    _fresh: int = field(default=0, init=False)
    _began: float = field(default=0.0, init=False)
    _last: float = field(default=0.0, init=False)

    def start(self, total: int, done: int) -> None:
        """Remember the size of the work."""
        self._total, self._done, self._fresh = total, done, 0
        self._began = self._last = time.monotonic()
        if done:
            self.say(f"{done} of {total} items are finished already")

    def advance(self, cell: str, items: int) -> None:
        """Count, and write a line if the last one is old enough, or all is done."""
        self._done += items
        self._fresh += items
        now = time.monotonic()
        if now - self._last < self.every_seconds and self._done < self._total:
            return
        self._last = now
        left = (now - self._began) / self._fresh * (self._total - self._done)
        share = f"{self._done}/{self._total} items"
        self.say(f"{share}, about {_clock(left)} left, {cell}" if left else share)

    def say(self, message: str) -> None:
        """Write one line."""
        print(message, file=self.stream, flush=True)

    def within(self, message: str) -> None:
        """Write a line if the last one is old enough."""
        now = time.monotonic()
        if now - self._last >= self.every_seconds:
            self._last = now
            self.say(message)

    def stop(self) -> None:
        """Do nothing: every line is whole."""


@dataclass(kw_only=True)
class Bar:
    """A bar with the time left."""

    stream: TextIO
    _bar: RichProgress | None = field(default=None, init=False)
    _task: TaskID | None = field(default=None, init=False)

    def start(self, total: int, done: int) -> None:
        """Show the bar, at what is done already."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.description}", markup=False),
            console=Console(file=self.stream),
        )
        self._task = self._bar.add_task("", total=total, completed=done)
        self._bar.start()

    def advance(self, cell: str, items: int) -> None:
        """Move the bar."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=items, description=cell)

    def within(self, message: str) -> None:
        """Show it beside the bar."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=message)

    def say(self, message: str) -> None:
        """Write above the bar; names may hold what looks like markup."""
        if self._bar is None:
            print(message, file=self.stream, flush=True)
        else:
            self._bar.console.print(message, markup=False, highlight=False)

    def stop(self) -> None:
        """Leave the bar as it stands and give the cursor back."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def on(stream: TextIO | None = None) -> Progress:
    """Return the progress that fits a stream, by default stderr."""
    chosen = sys.stderr if stream is None else stream
    return Bar(stream=chosen) if chosen.isatty() else Lines(stream=chosen)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
