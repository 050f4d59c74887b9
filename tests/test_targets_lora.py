"""LoRA files: written from peft, fused into plain weights, plugged on other models."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import Tensor

from safetybench.contracts import SafetyBenchError, TargetFailed, Unavailable
from safetybench.distill.views import lora_view
from safetybench.targets.loading import check_target, load_target, target_digest
from safetybench.targets.lora import FILE, apply_lora, save_lora
from safetybench.targets.spec import Sampler
from tests.targets import tiny_pipeline, tiny_target

MODULES = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "proj_in"]


def config(**options: Any) -> LoraConfig:
    usual = {"r": 4, "lora_alpha": 8, "init_lora_weights": False, "target_modules": MODULES}
    return LoraConfig(**{**usual, **options})


def adapted(base: Any, seed: int = 0, **options: Any) -> Any:
    """Return a copy of a denoiser with a random LoRA on it."""
    unet = copy.deepcopy(base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(config(**options))
    return unet


def answer(unet: Any) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    latents, text = torch.randn(2, 4, 8, 8, generator=rng), torch.randn(2, 12, 16, generator=rng)
    with torch.no_grad():
        found: Tensor = unet(latents, torch.tensor([5, 900]), text).sample
    return found


@pytest.fixture(scope="module")
def base() -> Any:
    return tiny_pipeline().unet


# Files


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"rank_pattern": {"to_q": 2}}])
def test_a_fused_lora_is_the_adapted_denoiser_and_plain(
    base: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    unet, fused = adapted(base, **options), copy.deepcopy(base)
    assert save_lora(unet, tmp_path) == FILE == "unet/pytorch_lora_weights.safetensors"
    assert {weight.dtype for weight in load_file(tmp_path / FILE).values()} == {torch.float16}
    apply_lora(fused, tmp_path / FILE)
    assert (answer(unet) - answer(base)).abs().max() > 0.1
    torch.testing.assert_close(answer(fused), answer(unet), rtol=0, atol=5e-3)
    assert list(fused.state_dict()) == list(base.state_dict())
    assert not any(isinstance(module, BaseTunerLayer) for module in fused.modules())
    assert not hasattr(fused, "peft_config")


def test_the_scale_is_how_much_is_added(base: Any, tmp_path: Path) -> None:
    save_lora(adapted(base), tmp_path)
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    shifts = []
    for scale in (1.0, 0.25, 0.0):
        fused = copy.deepcopy(base)
        apply_lora(fused, tmp_path / FILE, scale)
        shifts.append(fused.state_dict()[name] - base.state_dict()[name])
    assert shifts[0].abs().max() > 0.01
    torch.testing.assert_close(shifts[1], shifts[0] / 4, rtol=1e-3, atol=1e-5)
    assert not shifts[2].any()


def test_files_of_diffusers_itself_are_read(base: Any, tmp_path: Path) -> None:
    unet = adapted(base)
    unet.save_lora_adapter(tmp_path / "bare")
    layers = {k.removeprefix("unet."): v for k, v in load_file(_saved(unet, tmp_path)).items()}
    StableDiffusionPipeline.save_lora_weights(tmp_path / "piped", unet_lora_layers=layers)
    fused = copy.deepcopy(base)
    apply_lora(fused, tmp_path / "bare/pytorch_lora_weights.safetensors")
    torch.testing.assert_close(answer(fused), answer(unet), rtol=0, atol=1e-4)
    halved = copy.deepcopy(base)  # without metadata alpha is the rank
    apply_lora(halved, tmp_path / "piped/pytorch_lora_weights.safetensors", 2.0)
    torch.testing.assert_close(answer(halved), answer(unet), rtol=0, atol=5e-3)


def test_diffusers_reads_our_file(base: Any, tmp_path: Path) -> None:
    unet, pipeline = adapted(base), tiny_pipeline()
    _saved(unet, tmp_path)
    pipeline.load_lora_weights(tmp_path / "unet")
    torch.testing.assert_close(answer(pipeline.unet), answer(unet), rtol=0, atol=5e-3)


def test_a_file_of_kohya_is_read(base: Any, tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    down, up = torch.randn(2, 16, generator=rng), torch.randn(16, 2, generator=rng)
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    stem = f"lora_unet_{name.replace('.', '_')}"
    tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
    save_file({**tensors, f"{stem}.alpha": torch.tensor(1.0)}, tmp_path / "kohya.safetensors")
    fused = copy.deepcopy(base)
    apply_lora(fused, tmp_path / "kohya.safetensors")
    shift = fused.state_dict()[f"{name}.weight"] - base.state_dict()[f"{name}.weight"]
    torch.testing.assert_close(shift, up @ down / 2)


def test_a_denoiser_that_get_peft_model_wrapped_is_saved(base: Any, tmp_path: Path) -> None:
    unet = get_peft_model(copy.deepcopy(base), config())
    save_lora(unet, tmp_path)
    fused = copy.deepcopy(base)
    apply_lora(fused, tmp_path / FILE)
    torch.testing.assert_close(answer(fused), answer(unet), rtol=0, atol=5e-3)


def test_one_lora_is_saved_at_a_time(base: Any, tmp_path: Path) -> None:
    unet = adapted(base)
    with pytest.warns(UserWarning, match="multiple adapters"):
        unet.add_adapter(config(), "second")
    with pytest.raises(ValueError, match="one LoRA") as caught:
        save_lora(unet, tmp_path)
    assert str(caught.value) == "one LoRA can be saved, got 2: ['default', 'second']"


KEY = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        (f"{KEY}.lora_A.weight", (4, 15)),
        (f"{KEY}.lora_B.weight", (15, 4)),
        ("unet.mid_block.attentions.7.to_k.lora_A.weight", (4, 16)),
        ("text_encoder.layers.0.k_proj.lora_A.weight", (4, 16)),
        (f"{KEY}.strength", (4,)),
    ],
)
def test_a_lora_of_another_denoiser_is_refused(
    base: Any, tmp_path: Path, key: str, shape: tuple[int, ...]
) -> None:
    right = {f"{KEY}.lora_A.weight": torch.ones(4, 16), f"{KEY}.lora_B.weight": torch.ones(16, 4)}
    save_file({**right, key: torch.ones(shape)}, tmp_path / "it.safetensors")
    fused = copy.deepcopy(base)
    with pytest.raises(ValueError, match="fit") as caught:
        apply_lora(fused, tmp_path / "it.safetensors")
    assert str(caught.value) == f"it.safetensors holds {key!r}, which does not fit the denoiser"
    assert torch.equal(answer(fused), answer(base))


def _saved(unet: Any, folder: Path) -> Path:
    return folder / save_lora(unet, folder)


# Models


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a zoo: a teacher, an overlay on it, an acceleration LoRA with its own sampler."""
    root = tmp_path_factory.mktemp("zoo")
    target = tiny_target("teacher")
    target.save(root / "teacher", {"lineage": ["teacher"]}, half=True)
    target = load_target("zoo:teacher", device="cpu", zoo_root=root)
    from safetybench.targets.overlay import save_overlay

    forgetful = target.trainable_copy()
    with torch.no_grad():
        forgetful.unet.conv_out.bias.add_(1)
    parts, overlay = save_overlay(forgetful.unet, target.unet, root / "ca")
    card: dict[str, Any] = {"base": "teacher", "parts": parts, "overlay": overlay}
    card |= {"lineage": ["teacher", "ca"], "sampler": {"steps": 4, "guidance": 7.5}}
    (root / "ca/card.json").write_text(json.dumps(card), encoding="utf-8")

    fast = target.with_sampler(
        Sampler(steps=2, guidance=1.0, timesteps=(999, 499)),
        LCMScheduler.from_config(target.scheduler.config),
    )
    card = {
        "base": "teacher",
        "parts": ["scheduler"],
        "lineage": ["teacher", "fast"],
        "lora": _saved(adapted(target.unet), root / "fast").relative_to(root / "fast").as_posix(),
        "traits": {"data": "synthetic"},
    }
    fast.save(root / "fast", card, parts=["scheduler"])
    return root


def test_a_model_is_its_base_with_the_lora_of_its_card(zoo: Path) -> None:
    fast = load_target("zoo:fast", device="cpu", zoo_root=zoo)
    teacher = load_target("zoo:teacher", device="cpu", zoo_root=zoo)
    torch.testing.assert_close(answer(fast.unet), answer(adapted(teacher.unet)), rtol=0, atol=5e-3)
    assert fast.sampler_times == (999, 499)
    assert (fast.traits.sampler, fast.traits.data) == ("LCM", "synthetic")
    assert fast.lineage == ("teacher", "fast")


def test_a_plugged_lora_makes_an_accelerated_model_of_another_base(zoo: Path) -> None:
    spec = {"path": "zoo:ca", "lora": "zoo:fast"}
    assert check_target(spec, zoo_root=zoo) == ()
    target = load_target(spec, device="cpu", zoo_root=zoo)
    ca, fast = (load_target(f"zoo:{name}", device="cpu", zoo_root=zoo) for name in ("ca", "fast"))
    assert (target.name, target.lineage) == ("zoo:ca+fast", ("teacher", "ca", "fast"))
    assert (target.sampler, target.traits) == (fast.sampler, fast.traits)
    assert target.sampler_times == (999, 499)
    torch.testing.assert_close(target.unet.conv_out.bias, ca.unet.conv_out.bias)
    torch.testing.assert_close(answer(target.unet), answer(adapted(ca.unet)), rtol=0, atol=5e-3)
    given = load_target({**spec, "steps": 1}, device="cpu", zoo_root=zoo)
    assert given.sampler.steps == 1


def test_a_plugged_model_that_is_saved_is_whole(zoo: Path, tmp_path: Path) -> None:
    target = load_target({"path": "zoo:ca", "lora": "zoo:fast"}, device="cpu", zoo_root=zoo)
    target.save(tmp_path / "whole")
    back = load_target(tmp_path / "whole", device="cpu")
    torch.testing.assert_close(answer(back.unet), answer(target.unet), rtol=0, atol=1e-6)
    assert (back.lineage, back.sampler) == (target.lineage, target.sampler)
    assert "lora" not in back.card


def test_a_bare_file_leaves_the_sampler_and_says_so(zoo: Path) -> None:
    file = str(zoo / "fast" / FILE)
    target = load_target({"path": "zoo:ca", "lora": file}, device="cpu", zoo_root=zoo)
    assert target.sampler == Sampler(steps=4, guidance=7.5)
    assert target.notes == (
        "pytorch_lora_weights says no sampler settings: those of zoo:ca were kept",
    )
    half = load_target(
        {"path": "zoo:ca", "lora": file, "lora_scale": 0.5}, device="cpu", zoo_root=zoo
    )
    weights = [each.unet.state_dict()[f"{KEY[5:]}.weight"] for each in (target, half)]
    assert not torch.equal(*weights)


def test_the_digest_covers_the_lora_and_its_scale(zoo: Path, tmp_path: Path) -> None:
    file = tmp_path / "it.safetensors"
    file.write_bytes((zoo / "fast" / FILE).read_bytes())
    spec = {"path": "zoo:ca", "lora": str(file)}
    digests = {
        target_digest("zoo:ca", zoo_root=zoo),
        target_digest(spec, zoo_root=zoo),
        target_digest({**spec, "lora_scale": 0.5}, zoo_root=zoo),
        target_digest({**spec, "lora": "zoo:fast"}, zoo_root=zoo),
    }
    tensors = {name: weight + 1 for name, weight in load_file(file).items()}
    save_file(tensors, file)
    assert len({*digests, target_digest(spec, zoo_root=zoo)}) == 5


def test_what_is_no_lora_is_refused(zoo: Path, tmp_path: Path) -> None:
    def refusal(lora: Any, kind: type[SafetyBenchError]) -> str:
        with pytest.raises(kind) as caught:
            check_target({"path": "zoo:ca", "lora": str(lora)}, zoo_root=zoo)
        return str(caught.value)

    assert refusal("zoo:teacher", Unavailable) == ("'zoo:teacher' has no LoRA: its card names none")
    assert refusal("zoo:fats", Unavailable).startswith(
        "there is no model 'zoo:fats'; did you mean 'zoo:fast'?"
    )
    assert refusal("nowhere", Unavailable) == (
        "there is no 'nowhere' to plug on a denoiser; name zoo:NAME, a directory, or a "
        "safetensors file of a LoRA"
    )
    (tmp_path / "evil.pt").write_bytes(b"x")
    assert refusal(tmp_path / "evil.pt", SafetyBenchError) == (
        f"'{tmp_path}/evil.pt' is a pickle, which can run code when it is loaded; a LoRA is a "
        "safetensors file"
    )
    (tmp_path / "cut.safetensors").write_bytes((zoo / "fast" / FILE).read_bytes()[:-9])
    assert "is corrupted or cut short" in refusal(tmp_path / "cut.safetensors", TargetFailed)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/card.json").write_text('{"lora": "../x.safetensors"}', encoding="utf-8")
    assert refusal(tmp_path / "out", TargetFailed) == (
        f"the lora of '{tmp_path}/out' must be a file inside its folder, got '../x.safetensors'"
    )
    save_file({"unet.x.lora_A.weight": torch.ones(1, 1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(TargetFailed) as caught:
        load_target(
            {"path": "zoo:ca", "lora": str(tmp_path / "foreign.safetensors")},
            device="cpu",
            zoo_root=zoo,
        )
    assert str(caught.value) == (
        "could not load the unet of 'zoo:ca': foreign.safetensors holds 'unet.x.lora_A.weight', "
        "which does not fit the denoiser"
    )


def test_a_student_that_still_carries_its_lora_is_saved_whole(tmp_path: Path) -> None:
    target = tiny_target("velocity")
    student, weights = lora_view(target, 2)
    with torch.no_grad():
        for weight in weights:
            weight.add_(0.05)
    before = student.generate(["a cat"], [1])
    student.save(tmp_path / "student")
    again = load_target(tmp_path / "student", device="cpu")
    torch.testing.assert_close(again.generate(["a cat"], [1]), before, rtol=1e-3, atol=1e-3)
    assert student.unet.peft_config  # the one at hand still carries it
    assert not torch.allclose(before, target.generate(["a cat"], [1]))
