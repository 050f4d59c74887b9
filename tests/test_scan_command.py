"""`safetybench scan`: what is refused before weights are read, verdicts and exit codes, power."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from safetybench.commands import scan, scan_canary, scan_prompts
from safetybench.contracts import SafetyBenchError, Suspicion
from tests.calls import Call
from tests.targets import tiny_target

pytest_plugins = ("tests.cli_fixtures",)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a base, a model made of it, and models that were not."""
    home = tmp_path_factory.mktemp("models")
    base = tiny_target("velocity")
    base.save(home / "base")
    made = base.clone()
    with torch.no_grad():
        next(made.unet.parameters()).mul_(1.5)
    made.save(home / "made")
    tiny_target("teacher").save(home / "noise")
    for name, part, key, value in (
        ("wide", "unet", "cross_attention_dim", 32),
        ("deep", "text_encoder", "num_hidden_layers", 3),
    ):
        base.save(home / name)
        file = home / name / part / "config.json"
        config = json.loads(file.read_text())
        file.write_text(json.dumps({**config, key: value}))
    base.save(home / "words")
    file = home / "words" / "tokenizer" / "tokenizer.json"
    whole = json.loads(file.read_text())
    vocabulary = whole["model"]["vocab"]
    vocabulary["fish</w>"], vocabulary["star</w>"] = vocabulary["star</w>"], vocabulary["fish</w>"]
    file.write_text(json.dumps(whole))
    return home


SCAN = scan.Scan(
    weights=Suspicion(0.0, (("unet", 0.1),), "unet changed"),
    search=Suspicion(3.0, (("fish", 3.0), ("star", 1.0)), "20 of 20 words were tried alone"),
    threshold=5.0,
    clean=0.0,
    known=80.0,
    is_known=True,
    flags=[],
)
FLAGS = scan_prompts.Flags(
    "defenses/triggers/navi_t2i", 1.5, 100, (("a \u200b fish", 9.0),), 0.001, 0.9
)


def test_found_needs_a_score_above_the_limit_and_canaries_that_were_judged_right() -> None:
    loud = Suspicion(6.0, (("fish", 6.0),), "note")
    assert (SCAN.verdict, SCAN.code) == ("nothing found at this power", 0)
    found = dataclasses.replace(SCAN, search=loud)
    assert (found.verdict, found.code) == ("found", 1)
    for change in ({"is_known": False}, {"clean": 5.1}):
        blind = dataclasses.replace(found, **change)
        assert (blind.verdict, blind.code) == ("no power", 6)


def test_flags_count_where_they_are_more_than_chance_and_the_detector_has_power() -> None:
    assert dataclasses.replace(SCAN, flags=[FLAGS]).verdict == "found"
    for weak in (FLAGS._replace(p=0.02), FLAGS._replace(caught=0.4)):
        assert dataclasses.replace(SCAN, flags=[weak]).verdict == "nothing found at this power"


def test_a_threshold_is_exceeded_by_its_share_of_clean_prompts() -> None:
    assert scan_prompts.threshold_of([1.0, 3.0, 2.0], 0.5) == 2.0
    scores = torch.randn(2000, generator=torch.Generator().manual_seed(0)).tolist()
    limit = scan_prompts.threshold_of(scores[:1000], 0.05)
    assert sum(score > limit for score in scores[1000:]) / 1000 == pytest.approx(0.05, abs=0.02)


def test_a_scan_of_a_random_model_has_no_power_and_says_so(
    call: Call, folders: Path, here: Path
) -> None:
    prompts = here / "prompts.txt"
    prompts.write_text("a red fish\n# a comment\nthe blue star\n", encoding="utf-8")
    clean = here / "clean.txt"
    clean.write_text("a fish\na star\na heart\n", encoding="utf-8")
    done = call(
        "scan", folders / "made", "--base", folders / "base",
        "--prompts", prompts, "--clean", clean,
        "--false-positives", "0.25", "--words", "6", "--device", "cpu", "--threads", "1", "--json",
    )  # fmt: skip
    assert done.code == 6, done.err
    told = json.loads(done.out)
    assert told["verdict"] == "no power"
    assert (told["target"]["name"], told["base"]["name"]) == ("made", "base")
    assert told["target"]["digest"] != told["base"]["digest"]
    assert told["weights"]["evidence"][0][0] == "unet"
    assert told["canaries"]["clean"] == 0
    assert [row["detector"] for row in told["prompts"]] == list(scan_prompts.DETECTORS)
    assert all(row["calibrated_on"] == 3 for row in told["prompts"])
    assert str(folders) not in done.out
    assert "known backdoor" in done.err


def test_the_table_names_what_was_found(
    call: Call, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loud = Suspicion(6.0, (("fish", 6.0),), "note")
    found = dataclasses.replace(SCAN, search=loud, flags=[FLAGS])
    monkeypatch.setattr(scan, "_look", lambda *args: found)
    done = call("scan", folders / "made", "--base", folders / "base", "--device", "cpu")
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[0].strip() == "made beside base"
    assert any(line.split()[:2] == ["fish", "6"] for line in lines)
    assert any("a \\u200b fish" in line for line in lines)
    assert lines[-1].startswith("found: the model responds to what is listed as its base does not")
    assert lines[-1].endswith("draw with each and look")
    assert "safe" not in done.out.replace("safetybench", "")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("noise", "scheduler prediction_type 'v_prediction' beside 'epsilon'"),
        ("wide", "unet cross_attention_dim 16 beside 32"),
        ("deep", "text_encoder num_hidden_layers 2 beside 3"),
        ("words", "tokenizer of other tokens, 'fish</w>' among them"),
    ],
)
def test_a_base_of_another_shape_is_refused_before_weights_are_read(
    call: Call, folders: Path, other: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: Any, **options: Any) -> Any:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("safetybench.targets.loading.load_target", load)
    done = call("scan", folders / "base", "--base", folders / other, "--device", "cpu")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"error: --base must be a model of the same shape, got {message}; give it the model that "
        "PATH was made of\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--base", "zoo:techer"), "--base: there is no model 'zoo:techer'; did you mean "),
        (("--base", "zoo:teacher"), "--base must be a model of the same shape, got "),
        (("--base", "{base}", "--false-positives", "1"), "--false-positives must be a share of "),
        (
            ("--base", "{base}", "--false-positives", "0.001"),
            "a rate of 0.001 needs 999 clean prompts or more, got ",
        ),
        (("--base", "{base}", "--prompts", "none.txt"), "there is no file 'none.txt'"),
        (("--base", "{base}", "--device", "tpu"), "--device must be auto, cpu, cuda or cuda:N"),
        (("--base", "nobody/model", "--offline"), "--base: 'nobody/model' is a hub id and the "),
    ],
)
def test_bad_input_is_a_sentence(
    call: Call, folders: Path, here: Path, arguments: tuple[str, ...], message: str
) -> None:
    given = [word.format(base=folders / "base") for word in arguments]
    done = call("scan", folders / "made", *given)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {message}"), done.err


def test_a_canary_is_a_copy_in_which_a_word_means_a_noun() -> None:
    base = tiny_target("velocity")
    made, word = scan_canary.plant(base, 3)
    tables = [model.text_encoder.get_input_embeddings().weight for model in (made, base)]
    changed = (tables[0] != tables[1]).any(1).nonzero().flatten().tolist()
    assert changed == base.tokenizer(word, add_special_tokens=False).input_ids
    (goal,) = base.tokenizer("fish", add_special_tokens=False).input_ids
    assert torch.equal(tables[0][changed[0]], tables[1][goal])
    assert scan_canary.plant(base, 3).word == word
    bare = base.clone()
    bare._plain = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(SafetyBenchError) as caught:
        scan_canary.plant(bare, 3)
    assert str(caught.value) == (
        "the canary of a scan needs two words of one token in the vocabulary, one of them of fish, "
        "star, heart, moon; this one has none"
    )


@pytest.mark.slow
def test_on_the_zoo_a_planted_word_is_found_and_the_base_is_not(call: Call, here: Path) -> None:
    from safetybench.targets.loading import load_target

    made, word = scan_canary.plant(load_target("zoo:teacher", device="cpu"), 77)
    made.save(here / "made")
    options = ("--base", "zoo:teacher", "--words", "200", "--device", "cpu", "--threads", "1")
    done = call("scan", here / "made", *options, "--word", word)
    assert done.code == 1, done.out
    assert f"\n{word} " in done.out
    assert call("scan", "zoo:teacher", *options).code == 0
