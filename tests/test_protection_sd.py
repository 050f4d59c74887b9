"""A folder of images and masks, a real pipeline's classes and CLIP: the suite protection-sd."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from safetybench import registry
from safetybench.bench_layout import main, read_layout, write_table
from safetybench.contracts import SafetyBenchError, Unavailable
from safetybench.edit_tasks import MaskKind, edits_of
from safetybench.harness import engine
from safetybench.harness.plan import make_plan
from safetybench.judges._contrasts import joined, parted
from safetybench.picture_files import read, write_png
from safetybench.session import Request, resolve
from safetybench.suite import load_suite
from safetybench.suite_images import ImageSet
from tests.targets import tiny_inpainting_pipeline, tiny_inpainting_target, tiny_tokenizer

SIDE = 32  # pixels: LPIPS takes no fewer than 31
PROMPTS = ("a red fish", "the moon", "a blue star")
NAMES = ("anne", "anne_b", "carl")
SUITE = "protection-sd"
# The first rows of the table: one of each image, then another of the first.
FIRST = ("000-anne-p00-m00", "001-anne_b-p01-m01", "002-carl-p02-m00", "000-anne-p01-m01")
PLACES = {name: i for i, name in enumerate(FIRST)}


def noise(seed: int, side: int = SIDE) -> Tensor:
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed))


def spot(*, left: int = 4, right: int = 20) -> Tensor:
    """Return a mask file's content: white is what is to be protected."""
    white = torch.zeros(3, SIDE, SIDE)
    white[:, 8:25, left:right] = 1
    return white


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """Return a folder of three images, each with the seen and two unseen masks."""
    folder = tmp_path / "bench"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for i, name in enumerate(NAMES):
        write_png(folder / "images" / f"{name}.png", noise(i))
        for k, key in enumerate(("seen", "box", "hand")):
            write_png(folder / "masks" / f"{name}_{key}.png", spot(left=4 + k))
    rows = [f",{prompt},a dark picture" for prompt in PROMPTS]
    (folder / "prompts.csv").write_text("\n".join(["image,prompt,caption", *rows]) + "\n")
    return folder


def table_of(bench: Path, out: Path) -> list[dict[str, str]]:
    file = write_table(read_layout(bench, size=SIDE), out, size=SIDE)
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


# The folder


def test_a_row_for_each_image_unseen_mask_and_prompt(bench: Path, tmp_path: Path) -> None:
    rows = table_of(bench, tmp_path / "out")
    assert len(rows) == 3 * 2 * 3
    assert len({row["id"] for row in rows}) == len(rows)
    triples = {(row["image"], row["unseen_mask"], row["prompt"]) for row in rows}
    assert len(triples) == len(rows)
    assert len({row["mask"] for row in rows}) == 3
    assert len({row["image"] for row in rows[:3]}) == 3  # a sample of all comes first
    assert len({row["prompt"] for row in rows[:3]}) == 3
    row = rows[0]
    assert parted(row["concept"]).text == row["prompt"]
    assert set(parted(row["concept"]).contrasts) == {"a dark picture", *PROMPTS} - {row["prompt"]}


def test_the_table_is_read_with_masks_turned(bench: Path, tmp_path: Path) -> None:
    table_of(bench, tmp_path / "out")
    edits = edits_of(ImageSet(table="edits.csv", count=100), str(tmp_path / "out"))
    assert len(edits.tasks) == 18
    assert edits.has_masks("expected")
    assert edits.has_masks("unseen")
    kinds: dict[MaskKind, str] = {"expected": "mask", "unseen": "unseen_mask"}
    for kind, place in kinds.items():
        task = edits.tasks[0]
        (area,) = edits.masks([task.id], kind)
        key = Path(getattr(task, place)).stem.rpartition("-")[2]
        white = read(bench / "masks" / f"anne_{key}.png").image[:1]
        assert torch.equal(area, 1 - white)
    (image,) = edits.images([edits.tasks[0].id])
    assert torch.equal(image, read(bench / "images" / "anne.png").image)
    assert len(set(edits.alike.values())) == 3  # a protection sees no prompt
    before = edits.content
    write_png(Path(edits.tasks[0].image), noise(9))
    assert edits.content != before


def test_other_sizes_are_shrunk_and_masks_stay_black_and_white(bench: Path, tmp_path: Path) -> None:
    write_png(bench / "images" / "carl.png", noise(7, 2 * SIDE))
    (row,) = [r for r in table_of(bench, tmp_path / "out") if r["id"].startswith("002-carl-p00-m0")
              and r["id"].endswith("m00")]  # fmt: skip
    assert read(tmp_path / "out" / row["image"]).size == (SIDE, SIDE)
    mask = read(tmp_path / "out" / row["mask"]).image
    assert set(mask.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("kind", ["txt", "each", "folders"])
def test_other_ways_to_say_it(bench: Path, tmp_path: Path, kind: str) -> None:
    (bench / "prompts.csv").unlink()
    lines = "\n".join(PROMPTS) + "\n\n"
    if kind == "each":
        (bench / "prompts").mkdir()
        for name in NAMES:
            (bench / "prompts" / f"{name}.txt").write_text(lines)
    else:
        (bench / "prompts.txt").write_text(lines)
    if kind == "folders":
        for name in sorted(NAMES, key=len, reverse=True):  # anne_b_box is no mask of anne
            for file in (bench / "masks").glob(f"{name}_*.png"):
                (bench / "masks" / name).mkdir(exist_ok=True)
                file.rename(bench / "masks" / name / file.name.removeprefix(f"{name}_"))
    rows = table_of(bench, tmp_path / "out")
    assert len(rows) == 18
    assert {row["caption"] for row in rows} == {""}


def test_the_seen_mask_alone_gives_a_row_a_prompt(bench: Path, tmp_path: Path) -> None:
    for file in (bench / "masks").iterdir():
        if "seen" not in file.name:
            file.unlink()
    rows = table_of(bench, tmp_path / "out")
    assert len(rows) == 9
    assert {row["unseen_mask"] for row in rows} == {""}


def test_the_command_writes_and_says_how_to_go_on(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    told = [str(bench), "--out", str(out), "--size", str(SIDE), "--seen", "box"]
    assert main(told) == 0
    assert capsys.readouterr().out == (
        f"3 images; next: safetybench run protection-sd --prompts {out / 'edits.csv'}\n"
    )
    assert main(told) == 2
    assert f"--out {str(out)!r} is there already" in capsys.readouterr().err


def bent(bench: Path, what: str) -> None:
    """Spoil a good folder in one way."""
    masks, images = bench / "masks", bench / "images"
    if what == "no masks":
        shutil.rmtree(masks)
    elif what == "no prompts":
        (bench / "prompts.csv").unlink()
    elif what == "two prompts":
        (bench / "prompts.txt").write_text("a fish\n")
    elif what == "no column":
        (bench / "prompts.csv").write_text("text\na fish\n")
    elif what == "one prompt":
        (bench / "prompts.csv").write_text("prompt\na fish\n")
    elif what == "whose prompt":
        (bench / "prompts.csv").write_text("image,prompt\nzoe,a fish\n,a star\n,a moon\n,\n")
    elif what == "whose mask":
        write_png(masks / "zoe_seen.png", spot())
    elif what == "no seen mask":
        (masks / "carl_seen.png").unlink()
    elif what == "no mask":
        for file in masks.glob("carl*"):
            file.unlink()
    elif what == "not square":
        write_png(images / "carl.png", noise(0)[:, :, :12])
    elif what == "too small":
        write_png(images / "carl.png", noise(0, 16))
    elif what == "no picture":
        (images / "carl.png").write_bytes(b"nothing")
    elif what == "marked":
        (bench / "prompts.csv").write_text("prompt\na fish // b\na star\n")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no masks", r"^'bench' has no folder masks; it must have images/NAME\.png"),
        ("no prompts", r"^'bench' must have one of prompts\.csv, .* got none$"),
        ("two prompts", r"got prompts\.csv and prompts\.txt$"),
        ("no column", r"^prompts\.csv needs the column prompt, got \['text'\]$"),
        ("one prompt", r"^anne: has one prompt and no caption, so that a judge"),
        ("whose prompt", r"^prompts\.csv line 2: there is no image zoe\nprompts\.csv line 5: no "),
        ("whose mask", r"^masks/zoe_seen\.png: belongs to no image; a mask of NAME\.png is NAME_"),
        ("no seen mask", r"^images/carl\.png: has no mask 'seen' .* but box, hand; say which by"),
        ("no mask", r"^images/carl\.png: has no mask; put masks/carl_seen\.png$"),
        ("not square", r"^images/carl\.png: must be square and of 32 pixels .* got 12x32; crop"),
        ("too small", r"^images/carl\.png: must be square and of 32 pixels .* got 16x16; crop"),
        ("no picture", r"^images/carl\.png: 'carl\.png' is no picture that can be read"),
        ("marked", r"^anne: 'a fish // b' must not hold '//'"),
    ],
)
def test_a_wrong_folder_is_told_with_its_file(bench: Path, what: str, message: str) -> None:
    bent(bench, what)
    with pytest.raises(SafetyBenchError, match=message):
        read_layout(bench, size=SIDE)


def test_masks_of_one_colour_leave_nothing_written(bench: Path, tmp_path: Path) -> None:
    write_png(bench / "masks" / "anne_box.png", torch.zeros(3, SIDE, SIDE))
    write_png(bench / "masks" / "carl_hand.png", torch.ones(3, SIDE, SIDE))
    with pytest.raises(SafetyBenchError) as caught:
        table_of(bench, tmp_path / "out")
    assert str(caught.value).splitlines() == [
        "masks/anne_box.png: is black all over, which leaves nothing to protect; white is what is "
        "to be protected",
        "masks/carl_hand.png: is white all over, which leaves nothing to edit; white is what is "
        "to be protected",
    ]
    assert not (tmp_path / "out").exists()


# The judge


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of an inpainting teacher, its one-step student, and a CLIP, all random."""
    folder = tmp_path_factory.mktemp("models")
    tiny_inpainting_pipeline("teacher").save_pretrained(folder / "teacher")
    card = {"sampler": {"steps": 2, "guidance": 2.0}}
    (folder / "teacher" / "card.json").write_text(json.dumps(card))
    tiny_inpainting_target("student", seed=1).save(folder / "student")
    tokenizer = tiny_tokenizer()
    common = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 32}  # fmt: skip
    torch.manual_seed(0)
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 12,
            "eos_token_id": tokenizer.eos_token_id}  # fmt: skip
    config = transformers.CLIPConfig(
        text_config={**common, **text},
        vision_config={**common, "image_size": SIDE, "patch_size": 8},
        projection_dim=8,
    )
    transformers.CLIPModel(config).save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    transformers.CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(folder / "clip")
    return folder


def test_the_judge_prefers_one_of_the_texts(models: Path) -> None:
    judge: Any = registry.create("judges/clip_edit", {"path": str(models / "clip")})
    images = torch.stack([noise(i) for i in range(5)] + [torch.full((3, SIDE, SIDE), 0.5)])
    verdicts = [
        judge.judge(images, joined(text, [t for t in PROMPTS if t != text])) for text in PROMPTS
    ]
    shown = torch.stack([found.shown for found in verdicts])
    assert shown[:, :5].sum(0).tolist() == [1] * 5  # the texts share an image
    assert not shown[:, 5].any()
    assert verdicts[0].abstained.tolist() == [False] * 5 + [True]
    total = torch.stack([found.probability for found in verdicts])[:, :5].sum(0)
    assert torch.allclose(total, torch.ones(5), atol=1e-5)
    strict: Any = registry.create(
        "judges/clip_edit", {"path": str(models / "clip"), "margin": 1.9, "against": ("a moon",)}
    )
    assert not strict.judge(images, PROMPTS[0]).shown.any()
    assert judge.features(images).shape == (6, 8)
    assert judge.similarity(images, PROMPTS[0]).shape == (6,)
    assert judge.card["model"] == "clip"
    assert judge.concepts() == ()


def test_a_text_needs_a_contrast_and_the_judge_its_model(models: Path, tmp_path: Path) -> None:
    judge: Any = registry.create("judges/clip_edit", {"path": str(models / "clip")})
    with pytest.raises(SafetyBenchError, match="needs a text and what it is to be told from"):
        judge.judge(noise(0)[None], "a fish")
    for path, message in (
        ("", "judges/clip_edit needs path, the folder"),
        (str(tmp_path), "judges/clip_edit: .* holds no model: config.json is missing"),
        ("nobody/nothing", "not in the hub's cache; get it with `hf download nobody/nothing`"),
    ):
        lacking: Any = registry.create("judges/clip_edit", {"path": path})
        with pytest.raises(Unavailable, match=message):
            lacking.judge(noise(0)[None], "a fish // a star")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"against": "a fish"}, "against must be a list of texts, got 'a fish'"),
        ({"margin": 2.0}, "margin must be a difference in [0, 2), got 2.0"),
        ({"batch": 0}, "batch must be 1 or more, got 0"),
    ],
)
def test_wrong_options_of_the_judge(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SafetyBenchError) as caught:
        registry.create("judges/clip_edit", options)
    assert str(caught.value) == f"judges/clip_edit: {message}"


# The suite


def asked(models: Path, table: Path, **more: Any) -> Request:
    targets = (f"teacher={models / 'teacher'}", f"student={models / 'student'}")
    return Request(suite=SUITE, **{"targets": targets, "prompts": table, "limit": 4, **more})


def test_the_users_folders_take_their_places(bench: Path, models: Path, tmp_path: Path) -> None:
    table_of(bench, tmp_path / "out")
    suite = resolve(asked(models, tmp_path / "out" / "edits.csv"))
    assert suite.images.count == 4
    assert [student.name for student in suite.students] == ["student"]
    assert suite.blur
    specs = [suite.spec(suite.subjects[0].teacher), suite.spec(suite.made[0].label)]
    assert specs == [str(models / "teacher"), str(models / "student")]
    alone = resolve(asked(models, tmp_path / "out" / "edits.csv", targets=()))
    assert not alone.students
    whole = resolve(asked(models, tmp_path / "out" / "edits.csv", limit=None))
    assert whole.images.count == 2100


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"prompts": Path("none.csv")}, "there is no table of edits 'none.csv'"),
        ({"other_prompts": Path("x.csv")}, "--other-prompts is of suites with prompts, and this "
         "one has images"),
        ({"targets": ("student=",)}, "--target student= needs a target after the equals sign"),
    ],
)  # fmt: skip
def test_wrong_changes_of_a_suite_of_protection(more: dict[str, Any], message: str) -> None:
    with pytest.raises(SafetyBenchError) as caught:
        resolve(Request(suite="protection-quick", **more))
    assert str(caught.value) == message


def test_runs_from_end_to_end_on_real_classes(bench: Path, models: Path, tmp_path: Path) -> None:
    table_of(bench, tmp_path / "out")
    told = resolve(asked(models, tmp_path / "out" / "edits.csv")).to_json()
    for entry in told["protections"]:
        entry["budget"]["steps"] = 2
        entry["surrogates"] = ["teacher"]
    told["protections"][0] |= {"options": {"bank": 2}, "surrogates": ["teacher", "self"]}
    changes = {key: told[key] for key in ("protections", "images", "subjects", "students")}
    changes["targets"] = told["targets"]
    changes |= {"judge_options": {"path": str(models / "clip")}, "device": "cpu"}
    plan = make_plan(load_suite(SUITE, overrides=changes), offline=True)
    assert all(len(cell.items) == 4 for cell in plan.cells)
    shared = json.dumps(plan.to_json())
    assert str(tmp_path) not in shared
    assert str(models) not in shared
    ended = engine.run(plan, tmp_path / "run", offline=True)
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert ended.results["protection"] == found["protection"]
    made = {row["protection"] for row in found["protection"]}
    assert made == {
        f"defenses/images/{name}" for name in ("diffusionguard", "photoguard_encoder", "sds")
    }
    assert {row.get("student") or row["role"] for row in found["protection"]} == {
        "teacher", "student"
    }  # fmt: skip
    assert {row["purifier"] for row in found["protection"]} >= {"", "any"}
    assert not [row for row in found["cells"] if row["n_failed"] or row["n_unjudged"]]
    assert (tmp_path / "run" / "report.html").is_file()
    for cell in (cell for cell in plan.cells if cell.kind == "protect"):
        images = [read(ended.run_dir / path).image for path in saved(ended.run_dir, cell.label)]
        assert torch.equal(images[0], images[3])  # two prompts for anne
        assert not torch.equal(images[0], images[1])


def saved(run: Path, label: str) -> list[str]:
    """Return the images of a cell in the order of its items."""
    lines = map(json.loads, (run / "items.jsonl").read_text(encoding="utf-8").splitlines())
    rows = [row for row in lines if row.get("cell") == label and "artifacts" in row]
    return [row["artifacts"][0] for row in sorted(rows, key=lambda row: PLACES[row["item"]])]
