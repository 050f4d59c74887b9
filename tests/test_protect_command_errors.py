"""`safetybench protect` refuses what it cannot use: one sentence each, before a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from safetybench import registry
from safetybench.commands import protect_request
from safetybench.commands.protect_request import read_epsilon
from safetybench.contracts import Inpaints, SafetyBenchError
from tests.calls import Call, Done

pytest_plugins = ("tests.cli_fixtures", "tests.unlearn_fixtures")
NOISE: Any = registry.load("defenses/images/sign_noise")


@pytest.fixture
def things(model: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lie out pictures, masks and folders that are in the way, and let no model be loaded."""
    from safetybench.targets import loading

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load_target", refuse)
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    for folder in ("pics", "masks", "two", "void", "mine", "old", "twice"):
        (here / folder).mkdir()
    for name in ("pics/a.png", "masks/b.png", "two/a.png", "two/a.bmp", "twice/a.png"):
        pixels.save(here / name)
    Image.new("L", (8, 8), 255).save(here / "white.png")
    (here / "broken.png").write_bytes(b"\x89PNG")
    (here / "mine" / "thesis.tex").write_text("")
    (here / "old" / "protect.json").write_text('{"schema": "safetybench.protect/0"}')
    return here


@pytest.fixture
def protect(call: Call, things: Path) -> Callable[..., Done]:
    """Return the command on the tiny model; `more` comes last and wins."""

    def run(*more: str, images: tuple[str, ...] = ("pics",)) -> Done:
        words = ("--target", "sd15", "--out", "out", "--steps", "2", "--device", "cpu")
        return call("protect", *images, *words, *more)

    return run


AWAY = re.escape("choose another folder")
BAD: dict[tuple[str, ...], str] = {
    ("-m", "sdss"): (
        r"no component is called 'sdss'; did you mean 'defenses/images/sds'\? `safetybench list "
        r"defenses` shows all"
    ),
    ("-o", "signn=up"): r"defenses/images/sds has no option 'signn'; did you mean 'sign'\?.*",
    ("-o", "sign=left"): r"defenses/images/sds: sign must be .*, got 'left'",
    ("--epsilon", "8"): (
        r"--epsilon is a share of the range from black to white, below 1, got '8'; did you mean "
        r"8/255\?"
    ),
    ("--epsilon", "eight"): r"--epsilon must be as 8/255, or a number in \(0, 1\), got 'eight'",
    ("--epsilon", "0.5/255"): (
        r"--epsilon 0\.5/255 is below one level of 255, so that no pixel of an 8-bit picture could "
        r"move; take 1/255 or more"
    ),
    ("--steps", "0"): r"Invalid value for '--steps'.*; see .*",
    ("--strength", "0.5"): (
        r"--strength is of an edit; give its prompt with --edit, or leave it"
    ),
    ("--edit", "a fish", "--strength", "1.5"): r"--strength must be in \(0, 1\], got 1\.5",
    ("--device", "gpu"): r"--device must be auto, cpu, cuda or cuda:N, got 'gpu'",
    ("--dtype", "int8"): (
        r"--dtype must be one of auto, float32, bfloat16, float16, got 'int8'"
    ),
    ("--target", "./gone"): r"--target: there is no model directory '\./gone'.*",
    ("--target", "zoo:techer"): (
        r"--target: there is no model 'zoo:techer'; did you mean 'zoo:teacher'\?.*"
    ),
    ("--target", "someone/model", "--offline"): r"--target: 'someone/model' is a hub id and .*",
    ("--mask", "gone.png"): r"--mask: there is no file or folder 'gone\.png'",
    ("--mask", "masks"): r"--mask: 'masks' has no mask for 'a\.png'; put it there as 'a\.png'",
    ("--mask", "two"): r"--mask: 'a\.png' has 'a\.bmp', 'a\.png'; leave one",
    ("--mask", "white.png"): (
        r"the mask 'white\.png' is white all over: an editor would draw everything anew, and "
        r"nothing would be left to protect; leave black what is to be kept"
    ),
    ("--mask", "broken.png"): r"'broken\.png' is no picture that can be read; .*",
    ("--out", "mine"): rf"--out 'mine' is not empty and not of this command alone; {AWAY}",
    ("--out", "old", "--overwrite"): (
        rf"--out 'old' has a protect\.json of another schema; {AWAY}"
    ),
    ("--out", "white.png"): r"--out 'white\.png' is a file; choose a folder",
    ("--out", "white.png/x"): r"--out 'white\.png/x' lies below a file; choose a folder",
    ("--out", "sd15/x"): rf"--out lies in the target's folder; {AWAY}",
}  # fmt: skip


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_bad_input_gets_one_sentence(
    protect: Callable[..., Done], here: Path, arguments: tuple[str, ...]
) -> None:
    before = sorted(here.rglob("*"))
    done = protect(*arguments)
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(f"error: {BAD[arguments]}\n", done.err), done.err
    assert sorted(here.rglob("*")) == before


IMAGES: dict[tuple[str, ...], str] = {
    ("gone.png",): r"there is no picture or folder 'gone\.png'",
    ("pics", "twice"): (
        r"'pics/a\.png' and 'twice/a\.png' would both be written as 'a\.png'; protect them one by "
        r"one, each with an --out of its own"
    ),
    ("out/images/a.png",): (
        r"'out/images/a\.png' is a mask, or lies in --out; give originals, or choose another --out"
    ),
}


@pytest.mark.parametrize("images", IMAGES, ids=" ".join)
def test_pictures_that_cannot_be_taken(
    protect: Callable[..., Done], call: Call, images: tuple[str, ...]
) -> None:
    made = call("protect", "pics", "-m", "sign_noise", "--out", "out", "--device", "cpu")
    assert made.code == 0, made.err
    done = protect(images=images)
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(f"error: {IMAGES[images]}\n", done.err), done.err


def test_no_picture_is_nothing_to_do(protect: Callable[..., Done]) -> None:
    done = protect(images=("void", "mine"))
    assert (done.code, done.out, done.err) == (
        5,
        "",
        "error: there is no picture in 'void', 'mine'; --recursive goes into the folders below\n",
    )
    assert protect("-r", images=("void",)).err == "error: there is no picture in 'void'\n"
    assert protect(images=()).code == 2


def test_a_method_on_a_model_needs_one(call: Call, things: Path) -> None:
    done = call("protect", "pics", "--out", "out")
    assert done.err == (
        "error: defenses/images/sds needs --target SPEC: the model that pictures are protected on\n"
    )
    done = call("protect", "pics", "-m", "sign_noise", "--edit", "a fish", "--out", "out")
    assert done.err.startswith("error: --edit needs --target SPEC")
    assert done.code == 2


def test_a_method_says_what_it_needs(
    call: Call, protect: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(NOISE, "uses_masks", True)
        done = protect("-m", "sign_noise")
        assert done.err == (
            "error: defenses/images/sign_noise needs --mask FILE|FOLDER: white is the area that an "
            "editor redraws\n"
        )
    with monkeypatch.context() as patch:
        patch.setattr(NOISE, "needs", (Inpaints,))
        done = protect("-m", "sign_noise")
        assert done.err == (
            "error: defenses/images/sign_noise needs an inpainting model as its target, and sd15 "
            "is none\n"
        )
    with monkeypatch.context() as patch:
        patch.setattr(NOISE, "is_control", False)
        done = call("protect", "pics", "-m", "sign_noise", "--plan")
        assert done.err.endswith(
            "error: defenses/images/sign_noise says no number of steps; give one with --steps N\n"
        )
    done = protect("-m", "sign_noise", "--plan")
    assert "note: defenses/images/sign_noise looks at no model; --target is not used\n" in done.err


def test_a_target_without_what_the_method_needs_is_refused_before_any_picture(
    call: Call, model: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetybench.protocols import Inpaints

    Image.new("RGB", (8, 8)).save(here / "a.png")
    monkeypatch.setattr(protect_request, "Inpaints", object)  # as for a hub id: not known before
    monkeypatch.setattr(NOISE, "needs", (Inpaints,))
    words = ("-m", "sign_noise", "--target", "sd15", "--out", "out", "--device", "cpu")
    done = call("protect", "a.png", *words)
    assert done.code == 2
    assert done.err.endswith(
        "error: defenses/images/sign_noise needs a target with Inpaints, and sd15 is none; choose "
        "another --target\n"
    )
    assert not list((here / "out").rglob("*.png"))


def test_a_folder_in_use_is_left_alone(
    protect: Callable[..., Done], things: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetybench.commands.protect_folder import opened

    with opened(Path("out"), {"settings": {}}):
        done = protect("-m", "sign_noise")
    assert done.code == 2
    assert done.err.endswith(
        "error: another process works in 'out'; wait for it, or choose another folder\n"
    )


def test_a_radius_is_read_as_it_is_written() -> None:
    assert read_epsilon("8/255") == 8 / 255
    assert read_epsilon(" 12.75 / 255 ") == 0.05
    assert read_epsilon("0.03") == read_epsilon(".03") == 0.03
    for text in ("", "-8/255", "8/0", "nan", "inf", "8/255/1", "3%", "1e-2"):
        with pytest.raises(SafetyBenchError, match=r"^--epsilon must be as 8/255, or a number"):
            read_epsilon(text)
    for text, near in (("1", "; did you mean 1/255?"), ("300", ""), ("255/255", ""), ("1.0", None)):
        with pytest.raises(SafetyBenchError, match=r"below 1, got ") as caught:
            read_epsilon(text)
        assert near is None or str(caught.value).endswith(f"got {text!r}{near}")
    with pytest.raises(SafetyBenchError, match="below one level"):
        read_epsilon("0")


def test_a_wide_radius_and_one_between_levels_get_a_word(protect: Callable[..., Done]) -> None:
    wide = protect("--plan", "--epsilon", "0.3")
    assert "note: epsilon is 76.5/255, a visible change of every picture; published" in wide.err
    assert "note: epsilon is 76.5/255; of it 76/255 are left in 8 bits\n" in wide.err
    assert "note: epsilon" not in protect("--plan", "--epsilon", "16/255").err


def test_doctests() -> None:
    import doctest

    assert doctest.testmod(protect_request).failed == 0
