"""What to erase, from a user's words: prompts with the concept, the same with an anchor, others.

Built-in templates and neutral prompts, or the user's files, whose faults are told with their
line. Needs no model; what a model's tokenizer makes of the words is asked of the tokenizer alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from safetybench.contracts import Erasure, SafetyBenchError
from safetybench.prompt_file import Line, read_prompt_lines

Kind = Literal["object", "style"]
# A word the model has seen often is one piece, a rare one two or three.
PIECES_A_WORD = 3

# No article before the place: whoever wants one writes it with the concept.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "object": (
        "{}", "a photo of {}", "a picture of {}", "an image of {}", "a painting of {}",
        "a drawing of {}", "a sketch of {}", "a portrait of {}", "a close-up of {}",
        "a watercolour of {}", "an illustration of {}", "a black and white photo of {}",
        "a bright photo of {}", "a dark photo of {}", "a photo of {} at night",
        "a photo of {} at sunset", "a photo of {} in winter", "a photo of {} in the rain",
        "a photo of {} on a sunny day", "a photo of {} from far away", "{} in a garden",
        "{} in a city", "{} by a lake", "{} in the mountains", "{} on a white background",
        "{} and a tree", "{} with people around", "a postcard with {}", "a poster of {}",
        "a highly detailed photo of {}",
    ),
    "style": (
        "a picture in the style of {}", "a painting in the style of {}",
        "a drawing in the style of {}", "a landscape in the style of {}",
        "a portrait in the style of {}", "a city street in the style of {}",
        "a house in the style of {}", "a tree in the style of {}", "a cat in the style of {}",
        "a bowl of fruit in the style of {}", "a river in the style of {}",
        "mountains in the style of {}", "a garden in the style of {}", "a ship in the style of {}",
        "a woman reading in the style of {}", "a man with a hat in the style of {}",
        "flowers in a vase, {} style", "a night sky, {} style", "a village in winter, {} style",
        "a famous picture by {}",
    ),
}  # fmt: skip
NEUTRAL: dict[str, tuple[str, ...]] = {
    "object": (
        "a dog", "a cat", "a horse", "a bird", "a man", "a woman", "a child", "a crowd", "a car",
        "a bicycle", "a boat", "a train", "a house", "a bridge", "a tree", "a flower", "a mountain",
        "a beach", "a chair", "a table", "a cup", "a book", "a clock", "an apple", "a bowl of soup",
        "a guitar", "a pair of shoes", "a window", "a candle", "an umbrella",
    ),
    "style": (
        "impressionism", "cubism", "art nouveau", "baroque painting", "a comic book",
        "a children's book", "ink wash painting", "pixel art", "a film still", "pop art",
        "a stained glass window", "a mosaic", "watercolour", "charcoal drawing", "a woodcut",
        "pastel", "a renaissance fresco", "an old photograph", "line art", "oil painting",
    ),
}  # fmt: skip


def erasure_from_words(
    concept: str,
    anchor: str,
    *,
    synonyms: Sequence[str] = (),
    templates: Kind | Sequence[str] = "object",
    forget: Sequence[str] = (),
    retain: Sequence[str] = (),
) -> Erasure:
    """Return what erases a concept towards an anchor; words are compared without case.

    templates: "object" or "style" for the built-in ones, or texts with one "{}" each. forget:
    prompts that name the concept or a synonym, in the place of templates; in their anchor prompts
    it is replaced. retain: prompts to keep, by default neutral objects or styles in the built-in
    templates, two of each and none that names the concept. bare: the concept and its synonyms.

    Raises:
        SafetyBenchError: no concept or anchor, an anchor that names the concept, or a prompt or
            template that does not fit it.

    >>> found = erasure_from_words("fish", "bird", templates=["a red {}"], retain=["a cat"])
    >>> found.forget, found.anchor, found.bare
    (('a red fish',), ('a red bird',), ('fish',))
    """
    words = _words(concept, synonyms)
    anchor = _plain(anchor, "anchor")
    if _naming(words).search(anchor):
        raise SafetyBenchError(
            f"the anchor is what takes the concept's place and must not name it, got {anchor!r} "
            f"for {words[0]!r}"
        )
    kind = templates if isinstance(templates, str) else "object"
    naming = _naming(words)
    if isinstance(templates, str):  # "a painting of painting" asks for something else
        texts = tuple(text for text in TEMPLATES[kind] if not naming.search(text))
    else:
        texts = tuple(templates)
    _refuse([Line(0, text) for text in texts], _template_fault)
    _refuse([Line(0, text) for text in forget], lambda text: _forget_fault(text, words))
    _refuse([Line(0, text) for text in retain], lambda text: _retain_fault(text, words))
    pairs = [(text, naming.sub(lambda _: anchor, text)) for text in forget]
    pairs = pairs or [(text.replace("{}", words[0]), text.replace("{}", anchor)) for text in texts]
    return Erasure(
        forget=tuple(ours for ours, _ in pairs),
        anchor=tuple(theirs for _, theirs in pairs),
        retain=tuple(retain) or _neutral(kind, words),
        bare=words,
    )


def read_templates(file: Path) -> tuple[str, ...]:
    """Return the templates of a file, one a line, each with one "{}" where the concept goes.

    Raises:
        SafetyBenchError: the file cannot be read, or `file:line: what is wrong`.
    """
    return _read(file, _template_fault)


def read_forget(file: Path, concept: str, synonyms: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the prompts of a file, one a line, each of which names the concept or a synonym.

    Raises:
        SafetyBenchError: the file cannot be read, or `file:line: what is wrong`.
    """
    words = _words(concept, synonyms)
    return _read(file, lambda text: _forget_fault(text, words))


def read_retain(file: Path, concept: str, synonyms: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the prompts of a file, one a line, none of which names the concept or a synonym.

    Raises:
        SafetyBenchError: the file cannot be read, or `file:line: what is wrong`.
    """
    words = _words(concept, synonyms)
    return _read(file, lambda text: _retain_fault(text, words))


def check_word(tokenizer: Any, word: str) -> str:
    """Refuse a word that a tokenizer cannot spell; return a note on one it spells in many pieces.

    A vocabulary of bytes spells everything. A smaller one has a token for what it does not know,
    which is the same for every such word, so that a method would erase them all or none.

    Raises:
        SafetyBenchError: how many pieces are unknown, and what to do.
    """
    ids = tokenizer(word, add_special_tokens=False).input_ids
    unknown = sum(each == tokenizer.unk_token_id for each in ids)
    if unknown or not ids:
        what = f"{unknown} of its {len(ids)} pieces are unknown" if ids else "nothing of it is read"
        raise SafetyBenchError(
            f"the model's tokenizer does not know {word!r}: {what}; take words of its vocabulary"
        )
    if len(ids) <= PIECES_A_WORD * len(word.split()):
        return ""
    return (
        f"the model's tokenizer spells {word!r} in {len(ids)} pieces, so the model may hardly know "
        "it; look at its images of it first"
    )


def cut_pairs(tokenizer: Any, erasure: Erasure, length: int) -> list[int]:
    """Return the positions of pairs that a model reads as one: the rest of each is cut off.

    length: tokens that the model reads, start and end included.
    """

    def read(texts: tuple[str, ...]) -> Any:
        return tokenizer(list(texts), truncation=True, max_length=length).input_ids

    pairs = zip(read(erasure.forget), read(erasure.anchor), strict=True)
    return [i for i, (ours, theirs) in enumerate(pairs) if ours == theirs]


# Inside


def _plain(text: str, what: str) -> str:
    words = " ".join(text.split())
    if not words:
        raise SafetyBenchError(f"the {what} must be a word or a few, got {text!r}")
    return words


def _words(concept: str, synonyms: Sequence[str]) -> tuple[str, ...]:
    """Return the concept and its synonyms, each once."""
    found: dict[str, str] = {}
    for word in (_plain(concept, "concept"), *(_plain(each, "synonym") for each in synonyms)):
        found.setdefault(word.casefold(), word)
    return tuple(found.values())


def _naming(words: Sequence[str]) -> re.Pattern[str]:
    """Return what finds the words in a prompt, as whole words; the longest wins."""
    longest = sorted(words, key=len, reverse=True)
    any_of = "|".join(r"\s+".join(map(re.escape, word.split())) for word in longest)
    return re.compile(rf"(?<!\w)(?:{any_of})(?!\w)", re.IGNORECASE)


def _neutral(kind: str, words: Sequence[str]) -> tuple[str, ...]:
    templates, naming = TEMPLATES[kind], _naming(words)
    texts = [
        templates[(2 * i + k) % len(templates)].replace("{}", word)
        for i, word in enumerate(NEUTRAL[kind])
        for k in (0, 1)
    ]
    return tuple(text for text in texts if not naming.search(text))


_Fault = Callable[[str], str]


def _template_fault(text: str) -> str:
    places = text.count("{}")
    if places == 1:
        return ""
    return f"a template has one {{}} where the concept goes, got {places} in {text!r}"


def _forget_fault(text: str, words: Sequence[str]) -> str:
    if _naming(words).search(text):
        return ""
    return f"a prompt to forget must name {_any(words)}, got {text!r}"


def _retain_fault(text: str, words: Sequence[str]) -> str:
    found = _naming(words).search(text)
    return f"a prompt to keep must not name {found[0]!r}, got {text!r}" if found else ""


def _any(words: Sequence[str]) -> str:
    return " or ".join(map(repr, words))


def _refuse(lines: Sequence[Line], fault: _Fault, file: str = "") -> None:
    for number, text in lines:
        found = fault(text)
        if found:
            raise SafetyBenchError(f"{file}:{number}: {found}" if file else found)


def _read(file: Path, fault: _Fault) -> tuple[str, ...]:
    lines = read_prompt_lines(file)
    _refuse(lines, fault, str(file))
    return tuple(line.text for line in lines)
