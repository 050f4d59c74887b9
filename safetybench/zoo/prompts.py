"""Prompts of the embedded world, for evaluation, unlearning and distillation.

Evaluation prompts come from a split of the captions that no training ever saw, and their seeds
from a range that no training uses.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Literal

from safetybench.contracts import Erasure, Pictures, Prompt, SafetyBenchError
from safetybench.zoo.captions import SYNONYMS, Captions, is_evaluation
from safetybench.zoo.world import HEADS

if TYPE_CHECKING:
    from torch import Tensor

# Training draws its noise from generators seeded below a million times the step count of a plan.
FIRST_EVALUATION_SEED = 1_000_000_000


def head_of(concept: str) -> str:
    """Return the head ("object", "style", ...) that a concept belongs to.

    Raises:
        SafetyBenchError: the world has no such concept.
    """
    for head, classes in HEADS.items():
        if concept in classes:
            return head
    known = ", ".join(name for head in ("object", "style") for name in HEADS[head])
    raise SafetyBenchError(f"the zoo's world has no concept {concept!r}; it has {known}")


def evaluation_prompts(
    concept: str,
    count: int,
    seed: int,
    kind: Literal["concept", "other", "implicit"] = "concept",
) -> list[Prompt]:
    """Return prompts of the evaluation split, each naming all four attributes.

    kind: "concept" names the concept, by its own name as unlearning methods are given it;
    "other" names another class of the same head, which is then the prompt's concept; "implicit"
    asks for the concept by one of its synonyms, never by its name. Other attributes may be named
    by synonyms. ids are stable under `count`.
    """
    head = head_of(concept)
    key = f"{concept}/{kind}/{seed}"
    rng = random.Random(int(hashlib.sha256(key.encode()).hexdigest()[:12], 16))
    captions = Captions(rng)
    others = [name for name in HEADS[head] if name != concept]
    prompts = []
    for index in range(count):
        names = {h: rng.choice(classes) for h, classes in HEADS.items()}
        names[head] = others[index % len(others)] if kind == "other" else concept
        named = () if kind == "implicit" else (head,)
        text = captions.write(names, evaluation=True, gaps=False, by_name=named, filler=2)
        while kind == "implicit" and concept in text.split():
            text = captions.write(names, evaluation=True, gaps=False, filler=2)
        prompts.append(
            Prompt(
                id=f"{concept}-{kind}-{seed}-{index:04d}",
                text=text,
                concept=names[head],
                seed=FIRST_EVALUATION_SEED + rng.randrange(1_000_000_000),
                clean=" ".join(f"{h}={n}" for h, n in names.items() if h != head),
            )
        )
    return prompts


def erasure_of(concept: str, anchor: str, count: int = 512, seed: int = 0) -> Erasure:
    """Return training prompts that erase a concept of the world towards an anchor.

    Forget and anchor prompts differ by the one word; retain prompts name other classes.
    """
    head = head_of(concept)
    if anchor not in HEADS[head] or anchor == concept:
        raise SafetyBenchError(
            f"the anchor of {concept!r} must be another {head} of the zoo's world, got {anchor!r}"
        )
    rng = random.Random(f"{concept}/{anchor}/{seed}")
    captions = Captions(rng)
    forget: list[str] = []
    anchored: list[str] = []
    retain: list[str] = []
    while len(forget) < count:
        names = {h: rng.choice(classes) for h, classes in HEADS.items()}
        names[head] = concept
        text = captions.write(names, gaps=False, by_name=(head,), filler=3).split()
        if text.count(concept) != 1:
            continue
        at = text.index(concept)
        replaced = " ".join([*text[:at], anchor, *text[at + 1 :]])
        if not is_evaluation(replaced):  # another word is another caption, another split
            forget.append(" ".join(text))
            anchored.append(replaced)
    others = [name for name in HEADS[head] if name != concept]
    while len(retain) < count:
        names = {h: rng.choice(classes) for h, classes in HEADS.items()}
        names[head] = rng.choice(others)
        retain.append(captions.write(names))
    bare = tuple(f"a {word} shape" if head == "style" else word for word in SYNONYMS[concept])
    return Erasure(forget=tuple(forget), anchor=tuple(anchored), retain=tuple(retain), bare=bare)


def training_prompts(count: int, seed: int = 0) -> list[str]:
    """Return captions of the training split, gaps and irrelevant words included."""
    rng = random.Random(f"distill/{seed}")
    captions = Captions(rng)
    texts = []
    for _ in range(count):
        names = {head: rng.choice(classes) for head, classes in HEADS.items()}
        texts.append(captions.write(names))
    return texts


def training_pictures(count: int, seed: int = 0, without: str = "") -> Pictures:
    """Return renders of the world with captions of the training split.

    without: a concept of which no image shows anything, "" for none.
    """
    import torch

    from safetybench.zoo.world import render, sample_scenes

    generator = torch.Generator().manual_seed(600_000 + seed)
    captions = Captions(random.Random(f"pictures/{seed}"))
    images: list[Tensor] = []
    texts: list[str] = []
    while len(texts) < count:
        scenes = sample_scenes(256, generator)
        labels = zip(*(scenes.labels()[head].tolist() for head in HEADS), strict=True)
        names = [{h: HEADS[h][i] for h, i in zip(HEADS, row, strict=True)} for row in labels]
        kept = [i for i, each in enumerate(names) if without not in each.values()]
        images.append(render(scenes)[kept])
        texts += [captions.write(names[i]) for i in kept]
    return Pictures(torch.cat(images)[:count], texts[:count])


def named_attributes(prompt: Prompt) -> dict[str, str]:
    """Return the attributes a zoo prompt asks for besides its concept, by head."""
    return dict(part.split("=", 1) for part in prompt.clean.split())
