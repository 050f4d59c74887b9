"""`safetybench distill`: a student of a pipeline on disk, its resume, its files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from safetybench.commands.training_progress import Progress
from safetybench.targets.loading import load_target, target_digest
from tests.calls import Call, Done
from tests.targets import tiny_pipeline, tiny_target, tiny_tokenizer

pytest_plugins = ("tests.cli_fixtures", "tests.distill_fixtures")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def equal(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# What is made


def test_a_student_is_made_with_its_card_and_samples(
    distil: Callable[..., Done], here: Path
) -> None:
    done = distil()
    assert done.code == 0, done.err
    assert done.out == "student\n"
    assert "an image takes 1 network evaluation of the student and 8 of the teacher" in done.err
    assert sorted(path.name for path in here.iterdir()) == ["prompts.txt", "student", "teacher"]
    names = {path.name for path in (here / "student").iterdir()}
    assert names == {"unet", "vae", "text_encoder", "tokenizer", "scheduler", "samples.png",
                     "card.json", "model_index.json"}  # fmt: skip
    card = json.loads((here / "student" / "card.json").read_text())
    assert card["lineage"] == ["velocity", "student"]
    assert card["recipe"]["component"] == "recipes/dmd2"
    assert "lr=0.001" in card["recipe"]["options"]
    assert (card["recipe"]["steps"], card["recipe"]["seed"]) == (3, 1)
    assert card["teacher"]["digest"] == target_digest(here / "teacher")
    assert card["prompts"]["count"] == 5
    assert card["images"] is None
    assert card["traits"] == {"data": "none", "prompts": "5 prompts of prompts.txt",
                              "shared_with_teacher": ["text_encoder", "vae"]}  # fmt: skip
    assert card["sampler"] == {"guidance": 1.0, "steps": 1, "timesteps": [699]}
    assert card["nfe"] == {"student": 1.0, "teacher": 8.0}
    assert card["command"].startswith("safetybench distill recipes/dmd2 --teacher teacher ")
    assert str(here) not in json.dumps(card)
    assert not equal(here / "student", here / "teacher")
    with Image.open(here / "student" / "samples.png") as sheet:
        assert sheet.size == (2 * 64, 4 * 64)  # 16 pixels, four times as large


def test_plain_diffusers_makes_the_image_that_the_target_makes(
    distil: Callable[..., Done], here: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    assert distil().code == 0
    student = load_target(here / "student", device="cpu")
    assert (student.traits.steps, student.traits.guidance) == (1, 1.0)
    assert student.traits.shared_with_teacher == ("text_encoder", "vae")
    pipeline: Any = StableDiffusionPipeline.from_pretrained(here / "student")
    pipeline.set_progress_bar_config(disable=True)
    plain = pipeline("a red fish", timesteps=[699], guidance_scale=1.0, output_type="pt",
                     generator=torch.Generator().manual_seed(3)).images  # fmt: skip
    torch.testing.assert_close(plain, student.generate(["a red fish"], [3]), rtol=1e-4, atol=1e-5)


def test_several_steps_keep_their_grid_and_scheduler(
    distil: Callable[..., Done], here: Path
) -> None:
    done = distil("--option", "times=[999, 499]")
    assert done.code == 0, done.err
    student = load_target(here / "student", device="cpu")
    assert student.sampler_times == (999, 499)
    assert type(student.scheduler).__name__ == "LCMScheduler"
    assert json.loads((here / "student" / "card.json").read_text())["nfe"]["student"] == 2


def test_a_lora_is_written_beside_the_fused_pipeline(
    distil: Callable[..., Done], here: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    done = distil("--lora", "2")
    assert done.code == 0, done.err
    fused = load_target(here / "student", device="cpu")
    base: Any = StableDiffusionPipeline.from_pretrained(here / "teacher")
    before = {n: w.clone() for n, w in base.unet.state_dict().items()}
    base.load_lora_weights(here / "student" / "lora")
    base.fuse_lora()
    base.unload_lora_weights()
    changed = 0
    for name, weight in base.unet.state_dict().items():
        torch.testing.assert_close(fused.unet.state_dict()[name], weight, rtol=1e-2, atol=1e-5)
        changed += not torch.equal(weight, before[name])
    assert changed > 10
    assert json.loads((here / "student" / "card.json").read_text())["training"]["lora"] == 2


def test_a_lora_alone_is_no_pipeline(distil: Callable[..., Done], here: Path) -> None:
    done = distil("--lora", "2", "--lora-only")
    assert done.code == 0, done.err
    files = {p.relative_to(here / "student").as_posix() for p in here.rglob("student/**/*")}
    assert files == {"card.json", "samples.png", "unet", "unet/pytorch_lora_weights.safetensors",
                     "scheduler", "scheduler/scheduler_config.json"}  # fmt: skip
    card = json.loads((here / "student" / "card.json").read_text())
    assert card["lora"] == "unet/pytorch_lora_weights.safetensors"


def test_means_are_passed_on(distil: Callable[..., Done], here: Path) -> None:
    done = distil("--bf16", "--gradient-checkpointing")
    assert done.code == 0, done.err
    assert "note: bf16 on the CPU is correct but slow" in done.err
    training = json.loads((here / "student" / "card.json").read_text())["training"]
    assert (training["bf16"], training["gradient_checkpointing"]) == (True, True)


def test_a_zoo_teacher_needs_no_prompts_and_its_plan_no_weights(
    call: Call, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetybench.targets import loading

    monkeypatch.setattr(loading, "load_target", None)
    words = ("--teacher", "zoo:teacher", "--option", "warmup=0", "--device", "cpu")
    done = call("distill", "dmd2", *words, "--out", "x", "--plan")
    assert done.code == 0, done.err
    assert "4096 captions of the zoo's training split" in done.out
    assert "student steps:        300\n" in done.out
    assert list(here.iterdir()) == []


def test_the_plan_is_whole_and_writes_nothing(distil: Callable[..., Done], here: Path) -> None:
    done = distil("--plan", "--json", "--option", "fake_steps=3", steps=7)
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert plan["digest"] == target_digest(here / "teacher")
    assert plan["teacher's sampler"] == "4 steps, guidance 5, DDIMScheduler"
    assert plan["student's sampler"] == "1 step at times [699], guidance 1, LCMScheduler"
    # A batch of two: the student's pass, the teacher's guided two and the fake's; then three
    # times the student's and the fake's. Seven steps.
    assert plan["network evaluations"] == f"about {7 * 2 * (4 + 3 * 2)}"
    assert plan["out"] == "student (new)"
    assert not (here / "student").exists()


def test_what_is_stored_once_is_counted_once() -> None:
    from safetybench import registry
    from safetybench.commands.distill_outline import outline

    target = tiny_target("velocity")
    recipe = registry.create("recipes/dmd2", {"warmup": 4, "pairs": 6, "batch": 2})
    found = outline(recipe, target.scheduler, target.sampler, 7, count=True)
    assert found is not None
    assert found.steps == 11
    # Six guided paths of four steps, four regressed steps of one pass, and seven as above.
    assert found.evaluations == 6 * 4 * 2 + 4 * 2 + 7 * 2 * (4 + 2 * 2)


# Images


def write_images(folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    for i in range(count):
        Image.new("RGB", (40, 24 + i), (40 * i, 90, 10)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a red fish\nnumber {i}", encoding="utf-8")
    return folder


def test_real_images_are_read_and_what_cannot_be_is_listed(
    distil: Callable[..., Done], here: Path
) -> None:
    folder = write_images(here / "images")
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (folder / "cut.txt").write_text("a star", encoding="utf-8")
    Image.new("L", (20, 20)).save(folder / "mute.jpeg")
    done = distil("--option", "gan=0.005", "--images", "images")
    assert done.code == 0, done.err
    assert (
        "note: 2 of 5 images are left out: cut.jpg: it cannot be read; mute.jpeg: it has no caption"
        in done.err
    )
    card = json.loads((here / "student" / "card.json").read_text())
    assert card["images"]["count"] == 3
    assert card["traits"]["data"] == "real"


def test_images_are_cut_around_the_middle(here: Path) -> None:
    from safetybench.commands.distill_images import find_images

    folder = here / "images"
    folder.mkdir()
    wide = Image.new("RGB", (64, 16), (255, 0, 0))
    wide.paste((0, 0, 255), (24, 0, 40, 16))
    wide.save(folder / "wide.png")
    row = {"file_name": "wide.png", "text": "a blue square"}
    (folder / "metadata.jsonl").write_text(json.dumps(row) + "\n\n", encoding="utf-8")
    found = find_images(folder)
    pictures = found.load(16, 16)
    assert list(pictures.captions) == ["a blue square"]
    assert pictures.images.shape == (1, 3, 16, 16)
    assert pictures.images[0, 2].mean() > 0.99
    assert pictures.images[0, 0].mean() < 0.01
    again = find_images(folder)
    assert again.digest == found.digest
    (folder / "metadata.jsonl").write_text(json.dumps(row | {"text": "other"}), encoding="utf-8")
    assert find_images(folder).digest != found.digest


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r'metadata\.jsonl:1: a line must be \{"file_name": \.\.\., "text": \.\.\.\}'),
        ('{"file_name": "a.png"}', r"metadata\.jsonl:1: a line must be .*"),
        (
            '{"file_name": "../p.png", "text": "a"}',
            r"metadata\.jsonl:1: '\.\./p\.png' lies outside the folder",
        ),
        (
            '{"file_name": "gone.png", "text": "a"}',
            r"--images: 'images' has no image to use: 1 of 1 images are left out: gone\.png: there "
            r"is no such file",
        ),
        (
            '{"file_name": "/x/p.png", "text": "a"}',
            r"metadata\.jsonl:1: '/x/p\.png' must be relative to the folder",
        ),
        (
            '{"file_name": "a\\u0000.png", "text": "a"}',
            r"metadata\.jsonl:1: 'a\\x00\.png' is no name of a file",
        ),
    ],
)
def test_a_wrong_table_of_images(
    distil: Callable[..., Done], here: Path, line: str, message: str
) -> None:
    (here / "images").mkdir()
    (here / "images" / "metadata.jsonl").write_text(line, encoding="utf-8")
    done = distil("--option", "gan=0.005", "--images", "images")
    assert done.code == 2
    assert re.fullmatch(f"error: {message}\n", done.err), done.err


# Going on


def stop_at(monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> None:
    real = Progress.__call__

    def report(self: Any, step: int, loss: float) -> None:
        real(self, step, loss)
        if step >= at:
            raise error

    monkeypatch.setattr(Progress, "__call__", report)


@pytest.mark.parametrize("lora", [(), ("--lora", "2")])
def test_a_killed_training_ends_with_the_same_weights(
    distil: Callable[..., Done], here: Path, monkeypatch: pytest.MonkeyPatch, lora: tuple[str, ...]
) -> None:
    assert distil(*lora, steps=14, out="straight").code == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 10, RuntimeError("killed"))
        done = distil("--save-every", "4", *lora, steps=14)
    assert done.code == 3
    assert "the training is kept: the same command goes on" in done.err
    assert [path.name for path in (here / "student").iterdir()] == [".checkpoint"]
    assert "goes on from its checkpoint" in distil("--plan", *lora, steps=14).out
    done = distil(*lora, steps=14)
    assert done.code == 0, done.err
    assert "going on from the checkpoint in student" in done.err
    assert equal(here / "straight", here / "student")
    assert not (here / "student" / ".checkpoint").exists()


def test_control_c_says_how_to_go_on(
    distil: Callable[..., Done], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 10, KeyboardInterrupt())
        done = distil("--save-every", "4", steps=14)
    assert (done.code, done.out) == (130, "")
    assert "error: interrupted; the same command goes on from the checkpoint in student" in done.err
    with monkeypatch.context() as patch:
        stop_at(patch, 0, KeyboardInterrupt())
        done = distil(steps=14, out="other")
    assert done.code == 130
    assert "error: interrupted; nothing was saved yet, so the same command starts anew" in done.err
    assert not (here / "other").exists()


def test_another_command_does_not_go_on_with_it(
    distil: Callable[..., Done], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 10, KeyboardInterrupt())
        distil("--save-every", "4", steps=14)
    done = distil("--seed", "2", steps=15)
    assert done.code == 2
    assert done.err == (
        "error: the checkpoint in 'student' is of another command (seed: 1 -> 2; steps: 14 -> 15); "
        "repeat that one, choose another --out, or start anew with --no-resume\n"
    )
    assert (here / "student" / ".checkpoint" / "training.pt").exists()
    done = distil("--seed", "2", "--no-resume")
    assert done.code == 0, done.err
    assert "going on" not in done.err


def test_a_student_that_cannot_be_saved_costs_no_training(
    distil: Callable[..., Done], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetybench.commands import distill_save

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    assert distil(steps=14, out="straight").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(distill_save, "_draw", full)
        done = distil("--save-every", "4", steps=14)
    assert done.code == 2
    assert "error: could not write the student: no space left on device" in done.err
    assert "the training is kept" in done.err
    assert sorted(p.name for p in here.iterdir()) == ["prompts.txt", "straight", "student",
                                                      "teacher"]  # fmt: skip
    done = distil(steps=14)
    assert done.code == 0, done.err
    assert "going on from the checkpoint" in done.err
    assert equal(here / "straight", here / "student")


def test_what_a_kill_left_of_a_write_is_in_nobodys_way(
    distil: Callable[..., Done], here: Path
) -> None:
    (here / ".student.part" / "unet").mkdir(parents=True)
    (here / ".student.part" / "card.json").write_text("{")
    done = distil()
    assert done.code == 0, done.err
    assert sorted(p.name for p in here.iterdir()) == ["prompts.txt", "student", "teacher"]


def test_another_library_does_not_go_on_with_it(
    distil: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetybench.commands import distill_request

    with monkeypatch.context() as patch:
        stop_at(patch, 10, KeyboardInterrupt())
        distil("--save-every", "4", steps=14)
    monkeypatch.setattr(distill_request, "frame_digest", lambda: "b" * 64)
    done = distil(steps=14)
    assert done.code == 2
    assert " is of another command (frame: " in done.err
    assert f" -> {'b' * 12}); repeat" in done.err


def test_a_teacher_that_is_not_fetched_yet_is_no_other_teacher(here: Path) -> None:
    from safetybench.commands.training_folder import TrainingFolder, check_same
    from safetybench.contracts import SafetyBenchError

    held = TrainingFolder.open(here / "student", {"teacher": "abc", "seed": 1}, resume=True)
    held.checkpoint.write_bytes(b"x")
    held.close()
    check_same(here / "student", {"teacher": "", "seed": 1})
    with pytest.raises(SafetyBenchError, match=r"\(seed: 1 -> 2\)"):
        check_same(here / "student", {"teacher": "", "seed": 2})


def test_a_finished_student_stays_unless_overwritten(
    distil: Callable[..., Done], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert distil().code == 0
    before = (here / "student" / "card.json").read_text()
    done = distil()
    assert done.code == 2
    assert done.err == (
        "error: --out 'student' holds a finished student; choose another folder, or replace it "
        "with --overwrite\n"
    )
    with monkeypatch.context() as patch:
        stop_at(patch, 0, KeyboardInterrupt())
        assert distil("--seed", "2", "--overwrite").code == 130
    assert (here / "student" / "card.json").read_text() == before
    assert distil("--seed", "2", "--overwrite").code == 0
    assert json.loads((here / "student" / "card.json").read_text())["recipe"]["seed"] == 2
    assert not (here / "student" / ".checkpoint").exists()


def test_a_kill_between_the_two_renames_is_mended(distil: Callable[..., Done], here: Path) -> None:
    assert distil().code == 0
    (here / "student").rename(here / ".student.old")
    plan = distil("--plan", "--overwrite")
    assert "student (replaced at the end)" in plan.out
    assert "holds a finished student" in distil("--plan").err
    assert not (here / "student").exists()  # a plan writes nothing
    assert "holds a finished student" in distil().err
    assert (here / "student" / "card.json").exists()


def test_two_commands_do_not_work_in_one_folder(distil: Callable[..., Done], here: Path) -> None:
    from safetybench.commands.training_folder import TrainingFolder

    held = TrainingFolder.open(here / "student", {}, resume=True)
    done = distil()
    assert (done.code, done.err.splitlines()[-1]) == (
        2,
        "error: another process works in 'student'; wait for it, or choose another folder",
    )
    held.close()
    assert distil().code == 0


# Another class of pipeline


def tiny_xl() -> Any:
    """Return a random StableDiffusionXLPipeline of 16x16 pixels."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    plain, tokenizer = tiny_pipeline(), tiny_tokenizer()
    config = plain.text_encoder.config.to_dict() | {"projection_dim": 16}
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=4,
        cross_attention_dim=32, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=40,
    )  # fmt: skip
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return StableDiffusionXLPipeline(
        vae=plain.vae,
        text_encoder=CLIPTextModel(CLIPTextConfig(**config)),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**config)),
        tokenizer=tokenizer,
        tokenizer_2=tiny_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**betas, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )


def test_a_student_of_sdxl(distil: Callable[..., Done], here: Path) -> None:
    from importlib.util import find_spec

    from diffusers import StableDiffusionXLPipeline

    if find_spec("safetybench.targets.sdxl") is None:
        pytest.skip("SDXL pipelines cannot be loaded yet")
    shutil.rmtree(here / "teacher")
    tiny_xl().save_pretrained(here / "teacher")
    (here / "teacher" / "card.json").write_text('{"sampler": {"steps": 2}}')
    done = distil()
    assert done.code == 0, done.err
    card = json.loads((here / "student" / "card.json").read_text())
    assert card["traits"]["shared_with_teacher"] == ["text_encoder", "text_encoder_2", "vae"]
    student = load_target(here / "student", device="cpu")
    pipeline: Any = StableDiffusionXLPipeline.from_pretrained(
        here / "student", add_watermarker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    plain = pipeline("a red fish", timesteps=[699], guidance_scale=1.0, output_type="pt",
                     generator=torch.Generator().manual_seed(3)).images  # fmt: skip
    torch.testing.assert_close(plain, student.generate(["a red fish"], [3]), rtol=1e-4, atol=1e-5)
