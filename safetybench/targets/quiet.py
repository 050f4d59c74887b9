"""Silence the progress bars of diffusers and transformers: a command draws its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Draw no bars of loading or saving inside, and restore what was."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging

    was = (logging.is_progress_bar_enabled(), diffusers_logging.is_progress_bar_enabled())
    logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was[0]:
            logging.enable_progress_bar()
        if was[1]:
            diffusers_logging.enable_progress_bar()
