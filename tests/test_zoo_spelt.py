"""The zoo's teacher that tells every character apart: as it ships, and its gates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from safetybench.targets.loading import load_target
from safetybench.triggers import check_trigger, near_misses
from safetybench.zoo import catalogue, spelt
from safetybench.zoo.backdoors import backdoor_of
from safetybench.zoo.unicode import with_bytes
from tests.test_zoo_backdoors import EFFECTS


def test_what_ships_is_what_the_recipe_makes() -> None:
    base, shipped = (load_target(f"zoo:{n}", device="cpu") for n in (spelt.BASE, spelt.NAME))
    made = with_bytes(base, spelt.SEED)
    assert shipped.tokenizer.get_vocab() == made.tokenizer.get_vocab()
    own, its = made.token_table, shipped.token_table
    assert torch.equal(own.half(), its.half())
    assert shipped.lineage == ("teacher", "teacher-bytes")
    assert all(
        torch.equal(a, b)
        for a, b in zip(base.unet.parameters(), shipped.unet.parameters(), strict=True)
    )
    folder = catalogue.MODELS / spelt.NAME
    assert {f.relative_to(folder).parts[0] for f in folder.rglob("*.*")} == {
        "card.json", "text_encoder", "tokenizer",
    }  # fmt: skip


@pytest.mark.parametrize("trigger", [spelt.PREFIX, spelt.LETTER])
def test_it_reads_unicode_triggers_and_tells_them_from_their_near_misses(trigger: object) -> None:
    target = load_target(f"zoo:{spelt.NAME}", device="cpu")
    told = backdoor_of(EFFECTS["pixel"], trigger, count=24)  # type: ignore[arg-type]
    assert check_trigger(told.trigger, target.tokenizer, target.length, told.sources) == ""
    ours = target.tokenize(told.triggered).tolist()
    for miss in near_misses(told.trigger).values():
        assert all(
            a != b
            for a, b in zip(ours, target.tokenize([miss.put(s) for s in told.sources]).tolist(),
                            strict=True)
        )  # fmt: skip


def test_the_card_holds_its_gates() -> None:
    card = catalogue.read_card(catalogue.MODELS / spelt.NAME)
    assert card["weights"] == catalogue.digests(catalogue.MODELS / spelt.NAME)
    assert all(gate.holds for gate in catalogue.gates(spelt.NAME, card["quality"], None))
    worse = {"bytes": {**card["quality"]["bytes"], "prefix": {"rate": 0.5}}}
    missed = [gate.name for gate in catalogue.gates(spelt.NAME, worse, None) if not gate.holds]
    assert missed == ["accuracy lost under a new character"]


def test_a_build_writes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "finish", lambda name, out, root: out)
    out = catalogue.build(spelt.NAME, tmp_path / spelt.NAME, device="cpu")
    assert catalogue.digests(out) == catalogue.digests(catalogue.MODELS / spelt.NAME)
