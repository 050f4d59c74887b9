"""What the pictures that mimicry learns from are called."""

from __future__ import annotations

from safetybench.contracts import Album


def captions_of(album: Album, word: str, template: str) -> list[str]:
    """Return a caption of each picture that says `word`: the album's own where it does.

    template: of all others, with {} for the word.
    """
    plain = template.format(word)
    return [own if f" {word} " in f" {own} " else plain for own in album.captions]


def check_template(template: str) -> None:
    """Raise ValueError unless a template has exactly one place for the word."""
    if template.count("{}") != 1 or "{" in template.replace("{}", ""):
        raise ValueError(f"template must hold {{}} once, for the word, got {template!r}")


def check_album(album: Album, steps: int) -> None:
    """Raise ValueError where there is nothing to learn from, or no step to learn in."""
    if not len(album) or steps < 1:
        raise ValueError(
            f"mimicry needs an image and a training step at least, got {len(album)} images and "
            f"{steps} steps"
        )
