"""The digest of the code that tuning and distilling language models runs on."""

from __future__ import annotations

import hashlib
from pathlib import Path

# Targets, filters of a student's answers, what a bias is, and the words of a fresh model.
_OTHERS = (
    "targets/language_model.py",
    "targets/language_loading.py",
    "filters.py",
    "text_contracts.py",
    "zoo/instructions.py",
)


def code_digest() -> str:
    """Return a SHA-256 over this folder and what it runs on; recipes have their own."""
    here = Path(__file__).resolve().parent
    whole = hashlib.sha256()
    for file in (*sorted(here.glob("*.py")), *(here.parent / name for name in _OTHERS)):
        whole.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return whole.hexdigest()
