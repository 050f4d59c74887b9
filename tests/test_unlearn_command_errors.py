"""`safetybench unlearn` refuses what it cannot use: one sentence each, before a model is loaded."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.calls import Call, Done

pytest_plugins = ("tests.cli_fixtures", "tests.unlearn_fixtures")
FOLDER = re.escape("choose another folder")


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from safetybench.targets import loading

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load_target", refuse)


BAD: dict[tuple[str, ...], str] = {
    ("-o", "lrr=2"): r"unlearning/esd has no option 'lrr'; did you mean 'lr'\? it takes eta, .*",
    ("-o", "eta=high"): r"unlearning/esd: eta must be a number, got 'high'",
    ("-o", "eta"): r"--option must be KEY=VALUE, got 'eta'",
    ("-o", "bare=2"): r"unlearning/esd: lr and batch must be positive, .*",
    ("--steps", "0"): r"Invalid value for '--steps'.*; see .*",
    ("--device", "gpu"): r"--device must be auto, cpu, cuda or cuda:N, got 'gpu'",
    ("--concept", " "): r"the concept must be a word or a few, got ' '",
    ("--concept", "\u2603"): (
        r"--concept: the model's tokenizer does not know '\u2603': 3 of its 3 pieces are unknown; "
        r"take words of its vocabulary"
    ),
    ("--anchor", "7"): r"--anchor: the model's tokenizer does not know '7': .*",
    ("--synonyms", "carp,\u2603"): r"--synonyms: the model's tokenizer does not know '\u2603': .*",
    ("--anchor", "red fish"): (
        r"the anchor is what takes the concept's place and must not name it, got 'red fish' for "
        r"'fish'"
    ),
    ("--templates", "gone.txt"): r"--templates: there is no file 'gone\.txt'",
    ("--templates", "empty.txt"): (
        r"--templates: 'empty\.txt' holds nothing; write one prompt a line"
    ),
    ("--templates", "prompts.txt"): (
        r"--templates: prompts\.txt:2: a template has one \{\} where the concept goes, got 0 in "
        r"'a red fish'"
    ),
    ("--prompts", "prompts.txt"): (
        r"--prompts: prompts\.txt:4: a prompt to forget must name 'fish', got 'a goldfish'"
    ),
    ("--prompts", "long.txt"): (
        r"the model reads 77 tokens, and no prompt names the concept within them: 'red red .*' "
        r"does not; give shorter ones"
    ),
    ("--retain", "prompts.txt"): (
        r"--retain: prompts\.txt:2: a prompt to keep must not name 'fish', got 'a red fish'"
    ),
    ("--target", "./gone"): r"--target: there is no model directory '\./gone'.*",
    ("--target", "zoo:techer"): (
        r"--target: there is no model 'zoo:techer'; did you mean 'zoo:teacher'\?.*"
    ),
    ("--target", "inpaint"): (
        r"--target: the denoiser takes 9 channels and the autoencoder makes 4: inpainting and "
        r"image-conditioned models cannot be unlearned here"
    ),
    ("--target", "mute"): r"--target: could not load the tokenizer of 'mute': .*",
    ("--target", "someone/model", "--offline"): r"--target: 'someone/model' is a hub id and .*",
    ("--target", "zoo:teacher"): (
        r"the anchor of 'fish' must be another object of the zoo's world, got 'red'"
    ),
    ("--target", "zoo:teacher", "--concept", "church"): (
        r"the zoo's world has no concept 'church'; it has circle, .*"
    ),
    ("--target", "zoo:teacher", "--templates", "style"): r"--templates is not for a zoo model, .*",
    ("--out", "sd15/x"): rf"--out lies in the target's folder; {FOLDER}",
    ("--out", "sd15"): (
        rf"--out 'sd15' is not empty and holds no unlearned model of this command; {FOLDER}"
    ),
    ("--out", "student", "--overwrite"): (
        rf"--out 'student' is not empty and holds no unlearned model of this command; {FOLDER}"
    ),
    ("--out", "prompts.txt"): r"--out 'prompts\.txt' is a file; choose a folder",
}  # fmt: skip


@pytest.fixture
def bad_things(model: Path, here: Path) -> None:
    (here / "empty.txt").write_text("")
    (here / "prompts.txt").write_text("# three\na red fish\n\na goldfish\n", encoding="utf-8")
    (here / "long.txt").write_text("red " * 80 + "fish\n", encoding="utf-8")
    for name in ("inpaint", "mute"):
        shutil.copytree(model, here / name)
    config = here / "inpaint" / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 9}))
    (here / "mute" / "tokenizer" / "tokenizer.json").write_text("{")
    (here / "student").mkdir()
    (here / "student" / "card.json").write_text('{"schema": "safetybench.student/1"}')


@pytest.mark.usefixtures("no_model", "bad_things")
@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_bad_input_gets_one_sentence(
    unlearn: Callable[..., Done], here: Path, arguments: tuple[str, ...]
) -> None:
    before = sorted(here.rglob("*"))
    done = unlearn("--anchor", "red", *arguments)
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(f"error: {BAD[arguments]}\n", done.err), done.err
    assert sorted(here.rglob("*")) == before


@pytest.mark.usefixtures("no_model")
def test_an_unknown_method_and_missing_words(call: Call, unlearn: Callable[..., Done]) -> None:
    assert unlearn(method="esdd").err == (
        "error: no component is called 'esdd'; did you mean 'unlearning/esd'? "
        "`safetybench list unlearning` shows all\n"
    )
    done = call("unlearn", "esd", "--target", "sd15", "--out", "x", "--anchor", "star")
    assert done.code == 2
    assert done.err == (
        "error: --concept is needed, or --trigger TEXT to take a known trigger out\n"
    )
    done = call("unlearn", "esd", "--target", "sd15", "--out", "x", "--anchor", "star",
                "--trigger", "latte")  # fmt: skip
    assert done.err == ("error: --trigger stands in the place of --anchor; leave one of them out\n")


@pytest.mark.usefixtures("no_model")
def test_prompts_that_are_cut_before_the_concept_are_left_out_and_told(
    unlearn: Callable[..., Done], here: Path
) -> None:
    (here / "p.txt").write_text("a fish\n" + "red " * 80 + "fish\n", encoding="utf-8")
    done = unlearn("--prompts", "p.txt", "--plan", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["prompts to forget"] == "1 prompts of p.txt"
    assert "note: 1 of 2 prompts to forget are left out: the model reads 77 tokens, and" in done.err


@pytest.mark.usefixtures("no_model")
def test_rare_words_get_a_note(unlearn: Callable[..., Done]) -> None:
    done = unlearn("--concept", "church", "--plan")
    assert done.code == 0, done.err
    assert "note: the model's tokenizer spells 'church' in 6 pieces, so the model may" in done.err


def test_a_plan_of_a_hub_id_fetches_nothing(call: Call, here: Path) -> None:
    words = ("--target", "someone/model", "--concept", "fish", "--anchor", "star", "--out", "x")
    done = call("unlearn", "uce", *words, "--device", "cpu", "--plan", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["digest"] == "not fetched yet"
    assert "note: whether its tokenizer knows the words is seen once it is fetched" in done.err
