"""`safetybench unlearn`: a pipeline on disk without a concept, its files, its card, its page."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from safetybench import registry
from safetybench.commands import unlearn_defaults
from safetybench.commands.training_progress import Progress
from safetybench.targets.loading import load_target, target_digest
from tests.calls import Call, Done
from tests.pages import DOCS, blocks, suites
from tests.test_distill_command import tiny_xl

pytest_plugins = ("tests.cli_fixtures", "tests.unlearn_fixtures")
PAGE = DOCS / "unlearn.md"


def weights(folder: Path, part: str = "unet/diffusion_pytorch_model") -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / f"{part}.safetensors")


def changed(one: Path, other: Path) -> set[str]:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name], b[name])}


# What is made


def test_a_model_is_made_with_its_card_and_samples(
    unlearn: Callable[..., Done], here: Path
) -> None:
    done = unlearn("--synonyms", "carp, a fish", "-o", "lr=1e-3", "-o", "eta=2")
    assert done.code == 0, done.err
    assert done.out == "without\n"
    assert "'fish' was erased towards 'star' by 2 steps of unlearning/esd; " in done.err
    assert "plain diffusers" not in done.err
    assert sorted(path.name for path in here.iterdir()) == ["sd15", "without"]
    names = {path.name for path in (here / "without").iterdir()}
    assert names == {"unet", "vae", "text_encoder", "tokenizer", "scheduler", "samples.png",
                     "card.json", "model_index.json"}  # fmt: skip
    moved = changed(here / "sd15", here / "without")
    assert moved
    assert all(".attn2." in name for name in moved)
    card = json.loads((here / "without" / "card.json").read_text())
    assert card["lineage"] == ["velocity", "without"]
    assert card["erases"] == ["fish", "star"]
    assert card["recipe"]["component"] == "unlearning/esd"
    assert (card["recipe"]["steps"], card["recipe"]["seed"]) == (2, 1)
    assert card["recipe"]["code"] == registry.code_digest("unlearning/esd")
    # What the user says, what is published for real models, what the class says.
    method = registry.create("unlearning/esd", {"lr": 1e-3, "eta": 2.0, "batch": 1, "retain": 0.0})
    assert card["recipe"]["options"] == repr(method)
    erasure = card["erasure"]
    assert erasure["forget"] == {"count": 30, "source": "built-in object templates"}
    assert erasure["retain"] == {"count": 60, "source": "neutral prompts"}
    assert erasure["bare"] == ["fish", "carp", "a fish"]
    assert card["target"]["digest"] == target_digest(here / "sd15")
    assert card["training"]["torch"] == torch.__version__.partition("+")[0]
    assert card["nfe"] == {"original": 8.0, "unlearned": 8.0}
    assert card["sampler"] == {"guidance": 5.0, "steps": 4, "timesteps": None}
    assert shlex.split(card["command"]) == [
        "safetybench", "unlearn", "unlearning/esd", "--target", "sd15", "--concept", "fish",
        "--anchor", "star", "--synonyms", "carp,a fish", "--out", "without", "--steps", "2",
        "--seed", "1", "--option", "lr=1e-3", "--option", "eta=2",
    ]  # fmt: skip
    assert str(here) not in json.dumps(card)


def test_samples_are_the_original_above_and_the_new_model_below(
    unlearn: Callable[..., Done], here: Path
) -> None:
    from safetybench.erasure import erasure_from_words

    done = unlearn("-o", "lr=0.02")
    assert done.code == 0, done.err
    made = erasure_from_words("fish", "star")
    prompts = [*(made.forget[i] for i in (0, 10, 20)), *(made.retain[i] for i in (0, 20, 40))]
    with Image.open(here / "without" / "samples.png") as sheet:
        assert sheet.size == (6 * 64, 2 * 64)  # 16 pixels, four times as large
        top, bottom = sheet.crop((0, 0, 384, 64)), sheet.crop((0, 64, 384, 128))
        assert top.tobytes() != bottom.tobytes()
        for row, name in enumerate(("sd15", "without")):
            images = load_target(here / name, device="cpu").generate(prompts, range(6))
            for column in (0, 5):
                pixel = sheet.getpixel((column * 64 + 20, row * 64 + 20))
                wanted = (images[column, :, 5, 5] * 255).round().tolist()
                assert pixel == pytest.approx(wanted, abs=1)


def test_plain_diffusers_draws_what_the_target_draws(
    unlearn: Callable[..., Done], here: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    assert unlearn().code == 0
    made = load_target(here / "without", device="cpu")
    pipeline: Any = StableDiffusionPipeline.from_pretrained(here / "without")
    pipeline.set_progress_bar_config(disable=True)
    plain = pipeline("a red fish", num_inference_steps=4, guidance_scale=5.0, output_type="pt",
                     generator=torch.Generator().manual_seed(3)).images  # fmt: skip
    torch.testing.assert_close(plain, made.generate(["a red fish"], [3]), rtol=1e-4, atol=1e-5)


def test_the_same_command_makes_the_same_weights_and_another_seed_others(
    unlearn: Callable[..., Done], here: Path
) -> None:
    for out, seed in (("one", "1"), ("two", "1"), ("three", "2")):
        assert unlearn("--seed", seed, out=out, steps=1).code == 0
    assert changed(here / "one", here / "two") == set()
    assert changed(here / "one", here / "three")


def test_another_text_encoder_is_written(unlearn: Callable[..., Done], here: Path) -> None:
    done = unlearn("-o", "attack_steps=1", "-o", "images=4", method="adv-unlearn")
    assert done.code == 0, done.err
    assert changed(here / "sd15", here / "without") == set()
    old, new = (weights(here / name, "text_encoder/model") for name in ("sd15", "without"))
    assert any(not torch.equal(old[name], new[name]) for name in old)


@pytest.mark.parametrize("method", ["negative_prompt", "uce"])
def test_a_method_that_trains_nothing(call: Call, model: Path, here: Path, method: str) -> None:
    words = ("--target", "sd15", "--concept", "fish", "--anchor", "star", "--device", "cpu")
    plan = call("unlearn", method, *words, "--out", "x", "--plan")
    assert f"steps:                none: unlearning/{method} trains nothing\n" in plan.out
    done = call("unlearn", method, *words, "--out", "x", "--steps", "5")
    assert done.code == 0, done.err
    assert f"note: unlearning/{method} trains nothing; --steps 5 is not used\n" in done.err
    card = json.loads((here / "x" / "card.json").read_text())
    assert card["recipe"]["steps"] == 0
    assert "--steps" not in card["command"]
    made = load_target(here / "x", device="cpu")
    is_in_sampler = method == "negative_prompt"
    assert made.traits.defended_at == ("sampling" if is_in_sampler else "weights")
    assert ("the defense stands in card.json" in done.err) is is_in_sampler
    assert (changed(here / "sd15", here / "x") == set()) is is_in_sampler


def test_a_method_that_distils_as_well_makes_a_student(
    unlearn: Callable[..., Done], here: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    done = unlearn(method="sfd")
    assert done.code == 0, done.err
    card = json.loads((here / "without" / "card.json").read_text())
    assert card["sampler"] == {"guidance": 1.0, "steps": 1, "timesteps": [625]}
    assert card["nfe"] == {"original": 8.0, "unlearned": 1.0}
    made = load_target(here / "without", device="cpu")
    assert made.traits.data == card["traits"]["data"] == "none"
    assert made.traits.shared_with_teacher == ("text_encoder", "vae")
    pipeline: Any = StableDiffusionPipeline.from_pretrained(here / "without")
    pipeline.set_progress_bar_config(disable=True)
    plain = pipeline("a red fish", timesteps=[625], guidance_scale=1.0, output_type="pt",
                     generator=torch.Generator().manual_seed(3)).images  # fmt: skip
    torch.testing.assert_close(plain, made.generate(["a red fish"], [3]), rtol=1e-4, atol=1e-5)


def test_sdxl_is_unlearned(unlearn: Callable[..., Done], here: Path) -> None:
    shutil.rmtree(here / "sd15")
    tiny_xl().save_pretrained(here / "sd15")
    (here / "sd15" / "card.json").write_text('{"sampler": {"steps": 2}}')
    (here / "t.txt").write_text("a red {}\n", encoding="utf-8")
    done = unlearn("--templates", "t.txt")
    assert done.code == 0, done.err
    assert load_target(here / "without", device="cpu").pipeline == "StableDiffusionXLPipeline"
    assert changed(here / "sd15", here / "without")
    card = json.loads((here / "without" / "card.json").read_text())
    assert card["erasure"]["forget"] == {"count": 1, "source": "templates of t.txt"}


# The plan


def test_the_plan_is_whole_loads_no_weights_and_writes_nothing(
    unlearn: Callable[..., Done], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetybench.targets import loading

    monkeypatch.setattr(loading, "load_target", None)
    (here / "p.txt").write_text("# both\na red fish\nthe CARP, a fish\n", encoding="utf-8")
    (here / "r.txt").write_text("a moon\n", encoding="utf-8")
    files = ("--prompts", "p.txt", "--retain", "r.txt", "--synonyms", "carp")
    done = unlearn("--plan", "--json", *files)
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert plan["digest"] == target_digest(here / "sd15")
    assert plan["prompts to forget"] == "2 prompts of p.txt"
    assert plan["the first"] == "'a red fish' -> 'a red star'"
    assert plan["prompts to keep"] == "1 prompts of r.txt"
    assert plan["bare"] == "fish, carp"
    assert plan["steps"] == 2
    assert plan["out"] == "without (new)"
    assert not (here / "without").exists()
    assert unlearn("--plan", *files).out.startswith("method:               Esd(")


def test_a_zoo_model_takes_captions_of_its_grammar_and_its_own_settings(
    call: Call, here: Path
) -> None:
    from safetybench.zoo.captions import SYNONYMS
    from safetybench.zoo.prompts import erasure_of

    words = ("--target", "zoo:teacher", "--concept", "fish", "--anchor", "circle", "--out", "x")
    plan = json.loads(call("unlearn", "esd", *words, "--plan", "--json").out)
    made = erasure_of("fish", "circle")
    assert plan["method"] == repr(registry.create("unlearning/esd"))
    assert plan["prompts to forget"] == "512 captions of the zoo's training split"
    assert plan["the first"] == f"{made.forget[0]!r} -> {made.anchor[0]!r}"
    assert plan["bare"] == ", ".join(SYNONYMS["fish"])
    assert plan["steps"] == 300
    (here / "p.txt").write_text("a red salmon\n", encoding="utf-8")
    own = (*words, "--prompts", "p.txt")
    plan = json.loads(call("unlearn", "esd", *own, "--plan", "--json").out)
    assert plan["the first"] == "'a red salmon' -> 'a red circle'"
    assert plan["prompts to keep"] == "512 captions of the zoo's training split"


def test_a_class_may_say_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    esd: Any = registry.load("unlearning/esd")
    assert unlearn_defaults.defaults_of("unlearning/esd", esd).model == 1000
    unknown = unlearn_defaults.defaults_of("unlearning/mine", esd)
    assert (unknown.zoo, unknown.model, unknown.options) == (1000, 1000, {})
    monkeypatch.setattr(esd, "default_steps", 0, raising=False)
    assert not unlearn_defaults.defaults_of("unlearning/esd", esd).is_trained


def test_defaults_are_of_methods_and_options_that_there_are() -> None:
    for name, known in unlearn_defaults._METHODS.items():
        method = registry.load(f"unlearning/{name}")
        assert dict(unlearn_defaults.defaults_of(f"unlearning/{name}", method).options) == dict(
            known.options
        )


# The folder


def stop_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def report(self: Any, step: int, loss: float) -> None:
        raise error

    monkeypatch.setattr(Progress, "__call__", report)


def test_control_c_keeps_nothing_new_and_nothing_is_lost(
    unlearn: Callable[..., Done], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_with(patch, KeyboardInterrupt())
        done = unlearn()
    assert (done.code, done.out) == (130, "")
    assert done.err.endswith(
        "error: interrupted; nothing is kept, and the same command starts anew\n"
    )
    assert not (here / "without").exists()
    assert unlearn().code == 0
    before = (here / "without" / "card.json").read_text()
    with monkeypatch.context() as patch:
        stop_with(patch, KeyboardInterrupt())
        done = unlearn("--seed", "2", "--overwrite")
    assert "interrupted; the model in without is as it was, and" in done.err
    assert (here / "without" / "card.json").read_text() == before
    done = unlearn()
    assert (done.code, done.err) == (
        2,
        "error: --out 'without' holds a finished unlearned model; choose another folder, or "
        "replace it with --overwrite\n",
    )
    assert "without (replaced at the end)" in unlearn("--overwrite", "--plan").out
    assert unlearn("--seed", "2", "--overwrite").code == 0
    assert json.loads((here / "without" / "card.json").read_text())["recipe"]["seed"] == 2
    assert sorted(path.name for path in here.iterdir()) == ["sd15", "without"]


def test_a_full_disk_leaves_nothing(
    unlearn: Callable[..., Done], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetybench.commands import unlearn_save

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(unlearn_save, "_draw", full)
        done = unlearn()
    assert done.code == 2
    assert done.err.endswith(
        "error: could not write the unlearned model: no space left on device\n"
    )
    assert [path.name for path in here.iterdir()] == ["sd15"]


def test_the_checkpoint_of_a_distillation_is_not_touched(
    unlearn: Callable[..., Done], here: Path
) -> None:
    from safetybench.commands.training_folder import TrainingFolder

    held = TrainingFolder.open(here / "without", {"seed": 1}, resume=True)
    held.checkpoint.write_bytes(b"x")
    held.close()
    done = unlearn()
    assert (done.code, done.err) == (
        2,
        "error: --out 'without' holds an unfinished distillation; choose another folder\n",
    )
    assert held.checkpoint.exists()


# The page


def test_the_commands_of_the_page_run(
    call: Call, model: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line for block in blocks(PAGE, "sh") for line in block.splitlines()]
    assert len(lines) == 5
    for line in lines:
        words = shlex.split(line)[1:]
        if words[0] == "run":
            monkeypatch.setenv("OMP_NUM_THREADS", "1")
            (text,) = suites(PAGE)
            Path(words[1]).write_text(text, encoding="utf-8")
            shutil.copytree(model, here / "no-fish")
            words.append("--plan")
        elif any(word.startswith("zoo:") for word in words):
            words.append("--plan")
        else:
            words += ["--steps", "1", "--device", "cpu"]
        done = call(*words)
        assert done.code == 0, done.err
    assert load_target(here / "sd15-no-vangogh", device="cpu").card["erases"] == [
        "van gogh", "a painting"
    ]  # fmt: skip


def test_the_table_of_defaults_on_the_page_is_that_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = []
    for name, known in sorted(unlearn_defaults._METHODS.items()):
        steps = [str(each or "none") for each in (known.zoo, known.model)]
        said = " ".join(f"{key}={value}" for key, value in known.options.items())
        rows.append(f"| `{name}` | {' | '.join(steps)} | {f'`{said}` ' if said else ''}|")
    assert "\n".join(rows) in text
    assert {f"unlearning/{name}" for name in unlearn_defaults._METHODS} <= set(
        registry.names("unlearning")
    )
