"""`safetybench protect`: pictures in, protected pictures, comparisons and a record out."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from safetybench import registry
from safetybench.commands import protect_work
from safetybench.commands.protect_measures import side_by_side
from safetybench.contracts import Album, Budget
from safetybench.picture_files import read
from safetybench.targets.saving import save_target
from tests import targets
from tests.calls import Call, Done
from tests.pages import DOCS, blocks

pytest_plugins = ("tests.cli_fixtures", "tests.unlearn_fixtures")
PAGE = DOCS / "protect.md"
NOISE: Any = registry.load("defenses/images/sign_noise")


@pytest.fixture
def pics(here: Path) -> Path:
    """Return a folder of three pictures, one of them in a folder below."""
    rng = np.random.default_rng(0)
    (here / "pics" / "deep").mkdir(parents=True)
    for name, size in (("a.png", (16, 16)), ("b.jpg", (10, 13)), ("deep/c.png", (16, 16))):
        pixels = rng.integers(20, 230, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(here / "pics" / name, quality=95)
    (here / "pics" / "notes.txt").write_text("no picture")
    return here / "pics"


@pytest.fixture
def noise(call: Call, pics: Path) -> Callable[..., Done]:
    """Return the command with the control, which needs no model."""

    def run(*more: str, out: str = "out", images: str = "pics") -> Done:
        return call("protect", images, "-m", "sign_noise", "--out", out, "--device", "cpu", *more)

    return run


@pytest.fixture
def sds(call: Call, model: Path, pics: Path) -> Callable[..., Done]:
    """Return the command with SDS on the tiny model, three steps."""

    def run(*more: str, out: str = "out", images: str = "pics") -> Done:
        words = ("--target", "sd15", "--steps", "3", "--out", out, "--device", "cpu")
        return call("protect", images, "-r", *words, *more)

    return run


def record(folder: str | Path = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "protect.json").read_text("utf-8"))
    return found


def pictures(folder: str | Path = "out") -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in record(folder)["pictures"]}


def levels(one: Path, other: Path) -> torch.Tensor:
    return ((read(one).image - read(other).image) * 255).round().abs()


def test_help_is_what_it_was(call: Call, golden: Callable[[str, str], None]) -> None:
    for words, file in ((("protect",), "help-protect.txt"), ((), "help.txt")):
        done = call(*words, "--help")
        assert (done.code, done.err) == (0, "")
        golden(file, done.out)


# What comes out


def test_a_folder_becomes_a_folder(noise: Callable[..., Done], pics: Path) -> None:
    before = {path: path.read_bytes() for path in pics.rglob("*") if path.is_file()}
    done = noise("-r", "--epsilon", "5/255")
    assert (done.code, done.out) == (0, "out\n"), done.err
    assert {path: path.read_bytes() for path in before} == before
    files = {path.relative_to("out").as_posix() for path in Path("out").rglob("*.png")}
    names = ("a.png", "b.png", "deep/c.png")
    assert files == {f"{kind}/{name}" for kind in ("images", "comparisons") for name in names}
    found = record()
    assert found["schema"] == "safetybench.protect/1"
    assert found["settings"]["epsilon"] == 5 / 255
    assert found["epsilon"] == "5/255"
    assert found["is_control"]
    assert found["summary"] | {"psnr": 0, "ssim": 0} == {
        "done": 3, "failed": 0, "psnr": 0, "ssim": 0, "lpips": None
    }  # fmt: skip
    assert "no proof of protection" in found["statement"]
    for name, origin in (("a.png", "a.png"), ("b.png", "b.jpg"), ("deep/c.png", "deep/c.png")):
        row = pictures()[name]
        moved = levels(pics / origin, Path("out/images") / name)
        assert moved.unique().tolist() == [5]
        assert (row["status"], row["origin"], row["linf_levels"]) == ("done", origin, 5)
        assert row["psnr"] == pytest.approx(20 * np.log10(255 / 5), abs=1e-3)
        assert row["edit"] is None
    assert "was JPEG, is PNG" in pictures()["b.png"]["notes"]
    assert "note: 1 file is no picture by name and left out\n" in done.err
    assert "it is a control, and protects nothing" in done.err


def test_without_recursive_only_the_folder_itself(noise: Callable[..., Done]) -> None:
    assert noise("--json").code == 0
    assert sorted(pictures()) == ["a.png", "b.png"]


def test_json_is_the_record(noise: Callable[..., Done]) -> None:
    done = noise("--json")
    assert json.loads(done.out) == record()
    assert list(pictures()) == ["a.png", "b.png"]


def test_a_method_on_a_model(sds: Callable[..., Done], pics: Path) -> None:
    done = sds("--epsilon", "8/255", "--edit", "a red fish", "--strength", "0.75")
    assert done.code == 0, done.err
    for name, row in pictures().items():
        moved = levels(pics / row["origin"], Path("out/images") / name)
        assert 0 < moved.max() == row["linf_levels"] <= 8
        assert row["network_evaluations"] == row["steps"] == 3
        edit = row["edit"]
        assert edit["net"] == edit["displacement"] - edit["control_displacement"]
        assert edit["displacement"] > 0
        assert edit["control_displacement"] > 0
    # The networks halve 16 pixels but not 10 and 13: a margin is added and cut off again.
    assert [row["height"] for row in pictures().values()] == [16, 10, 16]
    assert any("no multiple of 4" in note for note in pictures()["b.png"]["notes"])
    found = record()
    assert found["settings"]["edit"] == {"prompt": "a red fish", "strength": 0.75, "seeds": 3}
    net = found["summary"]["net"]
    assert net["interval"]["low"] <= net["mean"] <= net["interval"]["high"]
    assert "beyond what noise does; that is no proof of protection" in done.err
    with Image.open("out/comparisons/a.png") as shown:
        assert shown.height == 192
        assert shown.width > 6 * 192


def test_an_inpainting_model_redraws_the_mask(call: Call, pics: Path, here: Path) -> None:
    save_target(targets.tiny_inpainting_target("velocity"), here / "painter")
    Image.fromarray(np.eye(2, dtype=np.uint8) * 255).save(here / "m.png")
    words = ("pics", "--target", "painter", "--steps", "2", "--device", "cpu", "--edit", "a fish")
    done = call("protect", *words, "-m", "diffusionguard", "--mask", "m.png", "--out", "out")
    assert done.code == 0, done.err
    for name, row in pictures().items():
        moved = levels(pics / row["origin"], Path("out/images") / name)
        assert 0 < moved.max() == row["linf_levels"] <= 8
        assert row["edit"]["displacement"] > 0
        assert row["mask_sha256"]
    done = call("protect", *words, "--out", "other")
    assert done.code == 2
    assert done.err.endswith(
        "error: painter redraws a masked area, so --edit needs --mask FILE|FOLDER\n"
    )


def test_a_comparison_has_original_protected_and_difference(noise: Callable[..., Done]) -> None:
    assert noise("--epsilon", "3/255").code == 0
    shown = read(Path("out/comparisons/a.png")).image
    original, protected = read(Path("pics/a.png")).image, read(Path("out/images/a.png")).image
    side, gap = 192, 6
    starts = [i * (side + gap) for i in range(3)]
    panels = [shown[:, ::12, start : start + side : 12] for start in starts]
    assert shown.shape == (3, side, 3 * side + 2 * gap)
    assert torch.equal(panels[0], original)
    assert torch.equal(panels[1], protected)
    around = (0.5 + 8 * (protected - original)) * 255
    assert (panels[2] * 255 - around).abs().max() <= 0.5 + 1e-3


def test_the_control_is_no_better_than_itself(sds: Callable[..., Done]) -> None:
    done = sds("-m", "sign_noise", "--edit", "a red fish", "--edit-seeds", "1")
    assert "note: defenses/images/sign_noise takes no steps; --steps 3 is not used\n" in done.err
    assert done.code == 0, done.err
    assert {row["edit"]["net"] for row in pictures().values()} == {0}


def test_neither_batch_nor_name_matters_and_the_seed_does(
    sds: Callable[..., Done], pics: Path
) -> None:
    shutil.copy(pics / "a.png", pics / "same.png")
    assert sds("--batch", "4", out="one").code == 0
    assert sds("--batch", "1", out="two").code == 0
    assert sds("--seed", "2", out="three").code == 0
    for name in pictures("one"):
        apart = levels(Path("one/images", name), Path("two/images", name))
        assert (apart > 0).float().mean() < 1e-3
    assert levels(Path("one/images/a.png"), Path("one/images/same.png")).max() <= 1
    assert levels(Path("one/images/a.png"), Path("three/images/a.png")).max() > 0


def test_what_nobody_sees_stays_as_it_is(noise: Callable[..., Done], pics: Path) -> None:
    pixels = np.random.default_rng(1).integers(20, 230, (16, 16, 4), dtype=np.uint8)
    pixels[:8, :, 3] = 0
    Image.fromarray(pixels).save(pics / "a.png")
    assert noise("--epsilon", "8/255").code == 0
    with Image.open("out/images/a.png") as image:
        written = np.asarray(image)
    assert (written[:8] == pixels[:8]).all()
    assert (written[..., 3] == pixels[..., 3]).all()
    apart = np.abs(written[8:, :, :3].astype(int) - pixels[8:, :, :3])
    assert (apart[pixels[8:, :, 3] > 0] == 8).all()


def test_a_picture_is_shrunk_first_on_demand(noise: Callable[..., Done], pics: Path) -> None:
    Image.new("RGB", (100, 50)).save(pics / "a.png")
    assert noise("--size", "20").code == 0
    assert read(Path("out/images/a.png")).size == (10, 20)
    assert "was shrunk to at most 20 pixels a side" in pictures()["a.png"]["notes"]


def test_large_pictures_and_zoo_models_get_a_word(sds: Callable[..., Done], pics: Path) -> None:
    Image.new("RGB", (40, 12), "gray").save(pics / "a.png")
    done = sds(images="pics/a.png")
    assert "a.png: is above twice the 16 pixels a side that the target was made for" in done.err
    done = sds("--plan", "--target", "zoo:teacher", out="other")
    assert "note: the zoo's models know a made-up world of 64 pixels;" in done.err


def test_names_that_would_clash(noise: Callable[..., Done], pics: Path) -> None:
    for name in ("a.jpg", "x.bmp", "x.jpg", "b"):
        Image.new("RGB", (8, 8)).save(pics / name, format="PNG")
    assert noise().code == 0
    assert sorted(pictures()) == ["a.jpg.png", "a.png", "b.png", "x.bmp.png", "x.jpg.png"]
    assert noise(images="pics/b", out="one").code == 0  # what is named is read, whatever its name
    assert list(pictures("one")) == ["b.png"]


def test_out_and_masks_may_lie_in_the_folder(noise: Callable[..., Done], pics: Path) -> None:
    (pics / "masks" / "deep").mkdir(parents=True)
    for name in ("a", "b", "deep/c"):
        Image.fromarray(np.eye(4, dtype=np.uint8) * 255).save(pics / "masks" / f"{name}.png")
    for _ in range(2):
        done = noise("-r", "--mask", "pics/masks", out="pics/out")
        assert done.code == 0, done.err
        assert sorted(pictures("pics/out")) == ["a.png", "b.png", "deep/c.png"]


def test_masks_go_to_the_method_at_the_size_of_the_picture(
    noise: Callable[..., Done], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Album] = []
    plain = NOISE.protect

    def protect(self: Any, target: Any, album: Album, budget: Budget, report: Any = None) -> Any:
        seen.append(album)
        return plain(self, target, album, budget, report)

    monkeypatch.setattr(NOISE, "protect", protect)
    Image.fromarray(np.array([[0, 255], [0, 0]], dtype=np.uint8)).save(here / "m.png")
    done = noise("--mask", "m.png", "--caption", "a fish")
    assert done.code == 0, done.err
    assert [tuple(album.images.shape) for album in seen] == [(1, 3, 16, 16), (1, 3, 10, 13)]
    for album in seen:
        assert album.masks is not None
        height, width = album.images.shape[2:]
        assert album.captions == ("a fish",)
        assert album.masks[0, 0, : height // 2, width // 2 :].all()
        assert album.masks.sum() == (height // 2) * (width - width // 2)
    assert "its mask has another size and was stretched to it" in pictures()["a.png"]["notes"]
    assert "sign_noise can do without --mask; it is handed on\n" in done.err


# Again


def test_what_is_done_is_not_done_again(
    sds: Callable[..., Done], pics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetybench.targets import loading

    (pics / "broken.png").write_bytes(b"\x89PNG")
    done = sds()
    assert done.code == 4, done.err
    first = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.png")}
    with monkeypatch.context() as patch:
        patch.setattr(loading, "load_target", None)  # none is needed for a file without a head
        again = sds()
    assert again.code == 4
    assert "3 pictures of 4 were done before\n" in again.err
    assert "failed: broken.png: 'pics/broken.png' is no picture that can be read" in again.err
    assert {path: path.stat().st_mtime_ns for path in first} == first
    # A picture that changed, one whose file was touched, and one that is whole now.
    shutil.copy(pics / "a.png", pics / "broken.png")
    Image.new("RGB", (16, 16), "navy").save(pics / "deep" / "c.png")
    Path("out/images/b.png").write_bytes(b"")
    kept = Path("out/images/a.png").stat().st_mtime_ns
    done = sds()
    assert done.code == 0, done.err
    assert "1 picture of 4 was done before\n" in done.err
    assert Path("out/images/a.png").stat().st_mtime_ns == kept
    assert levels(pics / "deep" / "c.png", Path("out/images/deep/c.png")).max() <= 8
    # Pictures of an earlier command stay in the record.
    assert sds(images="pics/a.png").code == 0
    assert len(pictures()) == 4


def test_other_settings_are_another_folder_s(noise: Callable[..., Done], pics: Path) -> None:
    assert noise().code == 0
    done = noise("--epsilon", "4/255", "--seed", "3")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(
        "error: --out 'out' holds pictures made with other settings (epsilon: 0.0313"
    )
    assert "; seed: 1 -> 3); choose another folder, or make all anew with --overwrite" in done.err
    (pics / "b.jpg").unlink()
    done = noise("--epsilon", "4/255", "--overwrite")
    assert done.code == 0, done.err
    assert [path.name for path in Path("out").rglob("*.png")] == ["a.png", "a.png"]
    assert pictures()["a.png"]["linf_levels"] == 4


def test_an_interrupted_command_goes_on(
    noise: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = side_by_side

    def interrupted(picture: Any, *rest: Any) -> Any:
        if picture.size != (16, 16):
            raise KeyboardInterrupt
        return plain(picture, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(protect_work, "side_by_side", interrupted)
        done = noise()
    assert (done.code, done.out) == (130, "")
    assert "error: interrupted; what is done stays, and the same command goes on" in done.err
    assert list(pictures()) == ["a.png"]
    assert [path.name for path in Path("out/images").iterdir()] == ["a.png"]
    done = noise()
    assert done.code == 0
    assert "1 picture of 2 was done before\n" in done.err


# What goes wrong alone


def test_a_picture_that_cannot_be_read_fails_alone(
    noise: Callable[..., Done], here: Path, pics: Path
) -> None:
    whole = (pics / "b.jpg").read_bytes()
    (pics / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (pics / "z.png").write_bytes(b"")
    done = noise()
    assert (done.code, done.out) == (4, "out\n")
    assert "failed: b.jpg: 'pics/b.jpg' is broken: " in done.err
    assert "failed: z.png: 'pics/z.png' is empty, 0 bytes;" in done.err
    assert "1 picture of 3 was protected by" in done.err
    assert {name: row["status"] for name, row in pictures().items()} == {
        "a.png": "done", "b.png": "failed", "z.png": "failed"
    }  # fmt: skip
    assert noise(images=str(pics / "b.jpg"), out="other").code == 4
    assert str(here) not in Path("other/protect.json").read_text()


def test_memory_that_does_not_last_makes_batches_smaller(
    noise: Callable[..., Done], pics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, sizes = NOISE.protect, []

    def protect(self: Any, target: Any, album: Album, budget: Budget, report: Any = None) -> Any:
        sizes.append(len(album))
        if len(album) > 2 or album.images.shape[2] == 10:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return plain(self, target, album, budget, report)

    monkeypatch.setattr(NOISE, "protect", protect)
    for name in "defg":
        Image.new("RGB", (16, 16), (ord(name), 50, 50)).save(pics / f"{name}.png")
    done = noise("--batch", "4")
    assert sizes == [4, 2, 2, 1, 1]
    assert done.code == 4
    assert "failed: b.jpg: memory does not last for 13x10 pixels; --size N shrinks" in done.err
    assert record()["summary"]["done"] == 5


def test_a_method_that_fails_on_one_picture_does_not_spoil_the_others(
    noise: Callable[..., Done], pics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = NOISE.protect

    def protect(self: Any, target: Any, album: Album, budget: Budget, report: Any = None) -> Any:
        if (album.images == 0).flatten(1).all(1).any():
            raise ValueError("black is no colour")
        made = plain(self, target, album, budget, report)
        white = (album.images == 1).flatten(1).all(1)
        return torch.where(white[:, None, None, None], made - 0.1, made)

    monkeypatch.setattr(NOISE, "protect", protect)
    for name in ("black", "white"):
        Image.new("RGB", (16, 16), name).save(pics / f"{name}.png")
    done = noise("--epsilon", "8/255")
    assert done.code == 4
    assert "failed: black.png: ValueError: black is no colour\n" in done.err
    assert re.search(r"failed: white\.png: white\.png is \d+ levels away from its pic", done.err)
    assert sorted(path.name for path in Path("out/images").iterdir()) == ["a.png", "b.png"]
    assert sorted(path.name for path in Path("out/comparisons").iterdir()) == ["a.png", "b.png"]


def test_a_full_disk_ends_the_command(
    noise: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetybench.store import StoreError

    def full(*_: Any, **__: Any) -> None:
        raise StoreError("cannot write a.png: no space left; free some")

    with monkeypatch.context() as patch:
        patch.setattr(protect_work, "write_png", full)
        done = noise()
    assert (done.code, done.out) == (2, "")
    assert done.err.endswith("error: cannot write a.png: no space left; free some\n")
    assert noise().code == 0


# The plan


def test_the_plan_is_whole_loads_no_weights_and_writes_nothing(
    sds: Callable[..., Done], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetybench.targets import loading
    from safetybench.targets.loading import target_digest

    with monkeypatch.context() as patch:
        patch.setattr(loading, "load_target", None)
        done = sds("--plan", "--json", "--edit", "a fish")
        assert done.code == 0, done.err
        plan = json.loads(done.out)
        assert plan["method"] == repr(registry.create("defenses/images/sds"))
        assert plan["digest"] == target_digest(here / "sd15")
        assert plan["epsilon"] == "8/255, Linf"
        assert plan["pictures"] == "3, 0 of them done before"
        assert plan["edit"] == "'a fish' at strength 0.5, 3 seeds"
        assert not Path("out").exists()
        assert sds("--plan").out.startswith("method:               Sds(")
    assert sds(images="pics/a.png").code == 0
    assert "pictures:             3, 1 of them done before\n" in sds("--plan").out
    hub = sds("--plan", "--target", "someone/model", out="x")
    assert "digest:               not fetched yet\n" in hub.out


def test_steps_are_those_of_the_authors_unless_given(call: Call, pics: Path) -> None:
    words = ("--target", "zoo:teacher", "--plan", "--json")
    plan = json.loads(call("protect", "pics", *words).out)
    published: Any = registry.load("defenses/images/sds")
    assert plan["steps"] == published.published.steps == 100


# The page


def test_the_commands_of_the_page_run(call: Call, model: Path, pics: Path) -> None:
    pics.rename("drawings")
    lines = [line for block in blocks(PAGE, "sh") for line in block.splitlines()]
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line)[1:]
        more = ["--plan"] if "zoo:teacher" in words else ["--steps", "1", "--device", "cpu"]
        done = call(*words, *more)
        assert done.code == 0, done.err
    assert len(pictures("protected")) == 2


def test_the_page_names_what_a_record_has(noise: Callable[..., Done]) -> None:
    assert noise().code == 0
    text = PAGE.read_text(encoding="utf-8")
    plain = {"name", "origin", "key", "height", "width", "image_sha256", "mask_sha256"}
    for key in {*pictures()["a.png"]} - plain - {"protected_sha256"}:
        assert f"`{key}`" in text, key
