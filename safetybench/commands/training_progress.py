"""How a training tells where it is."""

from __future__ import annotations

import sys
import time

from safetybench.commands.console import note


class Progress:
    """Tell step, loss and time left: a bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, total: int) -> None:
        from safetybench.harness.progress import Bar

        self.total = total
        self.bar = Bar(stream=sys.stderr) if sys.stderr.isatty() else None
        self.first = self.at = -1
        self.began = self.last = time.monotonic()

    def __call__(self, step: int, loss: float) -> None:
        """Take a step's loss; a resumed training begins at its own."""
        is_first = self.first < 0
        if is_first:
            self.first = self.at = step
            self.began = self.last = time.monotonic()
        if self.bar is not None:
            if is_first:
                self.bar.start(self.total, step)
            self.bar.advance(f"loss {loss:.4g}", step - self.at)
        elif is_first or time.monotonic() - self.last >= 10:
            self.last = time.monotonic()
            left = "" if is_first else f", about {self._left(step)} left"
            note(f"step {step} of {self.total}, loss {loss:.4g}{left}")
        self.at = step

    def _left(self, step: int) -> str:
        each = (time.monotonic() - self.began) / max(1, step - self.first)
        minutes, seconds = divmod(round(each * (self.total - step)), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"

    def stop(self) -> None:
        """Give the terminal back."""
        if self.bar is not None:
            self.bar.stop()
