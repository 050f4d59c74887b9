"""`safetybench distill` refuses what it cannot use: one sentence each, before a model is loaded."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.calls import Call, Done

pytest_plugins = ("tests.cli_fixtures", "tests.distill_fixtures")


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from safetybench.targets import loading

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load_target", refuse)


BAD: dict[tuple[str, ...], str] = {
    ("--option", "guidence=2"): (
        r"recipes/dmd2 has no option 'guidence'; did you mean 'guidance'\? it takes batch, .*"
    ),
    ("--option", "guidance=high"): r"recipes/dmd2: guidance must be a number, got 'high'",
    ("--option", "guidance=.nan"): r"recipes/dmd2: guidance must be a number, got '\.nan'",
    ("--option", "pairs=1.5"): r"recipes/dmd2: pairs must be a whole number, got '1\.5'",
    ("--option", "pairs=true"): r"recipes/dmd2: pairs must be a whole number, got 'true'",
    ("--option", "times=699"): (
        r"recipes/dmd2: times must be a list, as in \[1, 2\], each a whole number, got '699'"
    ),
    ("--option", "times=[a, 2]"): r"recipes/dmd2: times must be a list, .*, got '\[a, 2\]'",
    ("--option", "times=[2000]"): (
        r"Dmd2 cannot be trained with these options: times must be below 1000, as the teacher's "
        r"are, got \[2000\]"
    ),
    ("--option", "times=[1"): r"--option times='\[1' is no YAML value: .*",
    ("--option", "times"): r"--option must be KEY=VALUE, got 'times'",
    ("--option", "batch=3"): r"the option 'batch' is given twice; give it once",
    ("--option", "ema=1.5"): r"recipes/dmd2: batch and lr must be positive and ema in \[0, 1\), .*",
    ("--option", "gan=0.01"): (
        r"recipes/dmd2 with these options reads real images; give --images FOLDER, or options "
        r"without them"
    ),
    ("--images", "."): (
        r"recipes/dmd2 with these options reads no images, and --images was given; leave it out, "
        r"or see `safetybench show recipes/dmd2` for the option that reads them"
    ),
    ("--option", "gan=0.01", "--images", "gone"): r"--images: there is no folder 'gone'",
    ("--option", "gan=0.01", "--images", "teacher"): (
        r"--images: 'teacher' has no image to use: there are no PNG or JPEG files in it"
    ),
    ("--lora", "0"): r"Invalid value for '--lora'.*; see .*",
    ("--steps", "0"): r"Invalid value for '--steps'.*; see .*",
    ("--batch", "0"): r"Invalid value for '--batch'.*; see .*",
    ("--lora-only",): r"--lora-only needs --lora RANK; there is no LoRA to write else",
    ("--device", "gpu"): r"--device must be auto, cpu, cuda or cuda:N, got 'gpu'",
    ("--teacher", "./gone"): r"--teacher: there is no model directory '\./gone'.*",
    ("--teacher", "zoo:techer"): (
        r"--teacher: there is no model 'zoo:techer'; did you mean 'zoo:teacher'\?.*"
    ),
    ("--teacher", "prompts.txt"): r"--teacher: 'prompts\.txt' is a file; a target is .*",
    ("--teacher", "bare"): r"--teacher: 'bare' is no diffusers pipeline: it has no .*",
    ("--teacher", "flux"): r"--teacher: 'flux' is a FluxPipeline; text-to-image targets are .*",
    ("--teacher", "inpaint"): (
        r"--teacher: the denoiser takes 9 channels and the autoencoder makes 4: inpainting and "
        r"image-conditioned models cannot be distilled here"
    ),
    ("--teacher", "pickle"): r"--teacher: unet/diffusion_pytorch_model\.bin of 'pickle' is a .*",
    ("--teacher", "someone/model", "--offline"): r"--teacher: 'someone/model' is a hub id and .*",
    ("--prompts", "gone.txt"): r"--prompts: there is no file 'gone\.txt'",
    ("--prompts", "teacher"): r"--prompts: cannot read 'teacher': is a directory",
    ("--prompts", "empty.txt"): r"--prompts: 'empty\.txt' holds nothing; write one prompt a line",
    ("--prompts", "comments.txt"): (
        r"--prompts: 'comments\.txt' holds only comments and blank lines; write one prompt a line"
    ),
    ("--prompts", "latin.txt"): (
        r"--prompts: 'latin\.txt' is not UTF-8 at byte 3; convert it first"
    ),
    ("--out", "teacher/student"): (
        r"--out lies in the teacher's folder; choose another folder"
    ),
    ("--out", "prompts.txt"): r"--out 'prompts\.txt' is a file; choose a folder",
    ("--out", "prompts.txt/x"): r"--out 'prompts\.txt/x' lies below a file; choose another folder",
    ("--out", "teacher"): (
        r"--out 'teacher' is not empty and holds no student of this command; choose another folder"
    ),
    ("--out", "."): r"--out '\.' is not empty and holds no student of this command; .*",
}  # fmt: skip


@pytest.fixture
def bad_things(teacher: Path, here: Path) -> None:
    (here / "empty.txt").write_text("")
    (here / "comments.txt").write_text("# one\n\n   # two\n")
    (here / "latin.txt").write_bytes("caf\u00e9\n".encode("latin-1"))
    (here / "bare").mkdir()
    for name in ("flux", "inpaint", "pickle"):
        shutil.copytree(teacher, here / name)
    index = here / "flux" / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "FluxPipeline"))
    config = here / "inpaint" / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 9}))
    file = here / "pickle" / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))


@pytest.mark.usefixtures("no_model", "bad_things")
@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_bad_input_gets_one_sentence(
    distil: Callable[..., Done], here: Path, arguments: tuple[str, ...]
) -> None:
    before = sorted(here.rglob("*"))
    done = distil(*arguments)
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(f"error: {BAD[arguments]}\n", done.err), done.err
    assert sorted(here.rglob("*")) == before


@pytest.mark.usefixtures("no_model")
def test_an_unknown_recipe_and_missing_words(
    call: Call, distil: Callable[..., Done], here: Path
) -> None:
    done = distil(recipe="dmd22")
    assert done.err == (
        "error: no component is called 'dmd22'; did you mean 'recipes/dmd2'? "
        "`safetybench list recipes` shows all\n"
    )
    done = call("distill", "dmd2", "--teacher", "teacher", "--out", "student")
    assert done.err.startswith("error: --prompts FILE is needed: only the zoo's grammar writes")
    done = call("distill", "dmd2", "--out", "student")
    assert done.code == 2
    assert done.err.startswith("error: Missing option '--teacher'")


def test_a_folder_that_cannot_be_written(
    distil: Callable[..., Done], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and real(path, mode))
    done = distil()
    assert (done.code, done.err) == (
        2, "error: --out 'student' cannot be written; choose another folder\n"
    )  # fmt: skip
    assert not (here / "student").exists()


def test_a_damaged_checkpoint_says_what_to_do(distil: Callable[..., Done], here: Path) -> None:
    (here / "student" / ".checkpoint").mkdir(parents=True)
    (here / "student" / ".checkpoint" / "training.pt").write_bytes(b"no")
    done = distil()
    assert (done.code, done.err) == (
        2,
        "error: the checkpoint in 'student' does not say what it is of; --no-resume starts anew\n",
    )
    assert distil("--no-resume").code == 0


def test_prompts_with_a_byte_order_mark_and_windows_line_ends(here: Path) -> None:
    from safetybench.commands.training_inputs import read_prompts

    (here / "p.txt").write_bytes("\ufeff# x\r\na fish\r\n\r\na \u2028 star\r\n".encode())
    assert read_prompts(here / "p.txt") == ["a fish", "a \u2028 star"]


def test_a_prompt_file_in_the_users_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetybench.prompt_file import read_prompt_file

    monkeypatch.setenv("HOME", str(here))
    (here / "p.txt").write_text("a fish\n", encoding="utf-8")
    assert read_prompt_file(Path("~/p.txt")) == ["a fish"]


def test_bars_are_silent_inside_and_restored() -> None:
    from transformers.utils import logging

    from safetybench.targets.quiet import quiet

    was = logging.is_progress_bar_enabled()
    with quiet():
        assert not logging.is_progress_bar_enabled()
    assert logging.is_progress_bar_enabled() is was


def test_options_are_read_by_the_type_of_their_field() -> None:
    from typing import Literal

    from safetybench.commands.training_inputs import _NO, _fit, _said

    fits: list[tuple[Any, str, Any, Any]] = [
        ("1e-5", "1e-5", float, 1e-5),  # text in YAML 1.1
        (3, "3", float, 3.0),
        (True, "true", float, _NO),
        (True, "yes", bool, True),
        (1, "1", bool, _NO),
        (False, "no", str, "no"),
        (False, "no", Literal["no", "few"], "no"),
        ("many", "many", Literal["no", "few"], _NO),
        ([1, 2], "[1, 2]", float | tuple[float, float], (1.0, 2.0)),
        ([1, 2, 3], "[1, 2, 3]", float | tuple[float, float], _NO),
        (None, "null", int | None, None),
        ([], "[]", tuple[int, ...], ()),
    ]
    for value, text, kind, wanted in fits:
        found = _fit(value, kind, text)
        assert (found is _NO) if wanted is _NO else (found == wanted), (text, kind)
        assert type(found) is type(wanted)
    assert _said(float | tuple[float, float]) == "a number or a list of 2: a number, a number"
