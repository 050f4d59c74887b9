"""Finding, checking, digesting and loading targets; each refusal is matched whole once."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from safetybench.contracts import SafetyBenchError, TargetFailed, Unavailable
from safetybench.targets import layout as layout_module
from safetybench.targets.loading import (
    TargetSpec,
    check_target,
    list_zoo,
    load_target,
    target_digest,
)
from safetybench.targets.spec import Sampler
from tests.targets import SAMPLERS, VARIANTS, Variant, tiny_pipeline, tiny_scheduler, tiny_target

UNET = "model/unet/diffusion_pytorch_model.safetensors"
CONVERT = (
    "which can run code when it is loaded; convert it, on a machine that may be lost, with "
    "StableDiffusionPipeline.from_pretrained(..., use_safetensors=False).save_pretrained(DIR) "
    "and use DIR"
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one saved target, `model`, and a zoo of three."""
    folder = tmp_path_factory.mktemp("saved")
    target = tiny_target("teacher")
    target.save(folder / "model")
    zoo = folder / "zoo"
    target.save(zoo / "teacher", {"lineage": ["teacher"]}, half=True)
    forgetful = target.trainable_copy()
    with torch.no_grad():
        forgetful.unet.conv_out.bias.add_(1)
    card = {"base": "teacher", "parts": ["unet"], "lineage": ["teacher", "ca"]}
    forgetful.save(zoo / "teacher-ca", card, half=True, parts=["unet"])
    student = forgetful.with_sampler(Sampler(steps=1, guidance=1.0), tiny_scheduler("student"))
    card = {"base": "teacher-ca", "parts": ["scheduler"], "lineage": ["teacher", "ca", "dmd"]}
    student.save(zoo / "student-ca", card, parts=["scheduler"])
    return folder


@pytest.fixture
def here(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, a copy of `saved` to be spoilt."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def zoo(saved: Path) -> Path:
    return saved / "zoo"


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, **changes}), encoding="utf-8")


def refusal(spec: Any, kind: type[SafetyBenchError] = SafetyBenchError, **options: Any) -> str:
    """Return what check, digest and load say, which must be the same sentence."""
    said = set()
    for ask in (check_target, target_digest, load_target):
        with pytest.raises(kind) as caught:
            ask(spec, **options)
        said.add(str(caught.value))
    assert len(said) == 1
    (sentence,) = said
    assert "\n" not in sentence
    return sentence


def network(*args: Any, **options: Any) -> Any:
    raise AssertionError("the network was used")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "list_repo_files", network)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", network)


# Saving and loading back


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_target_loads_back(variant: Variant, tmp_path: Path) -> None:
    target = tiny_target(variant)
    target.save(tmp_path / "it", {"lineage": ["teacher", variant]})
    back = load_target(tmp_path / "it", device="cpu")
    assert back.name == "it"
    assert back.lineage == ("teacher", variant)
    assert back.traits == target.traits
    assert back.sampler == SAMPLERS[variant]
    assert back.notes == ()
    assert back.digest == target_digest(tmp_path / "it")
    images = [each.generate(["a red fish"], [3]) for each in (target, back)]
    torch.testing.assert_close(*images, rtol=0, atol=1e-5)


def test_plain_diffusers_reads_a_saved_target(here: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained("model")
    pipeline.set_progress_bar_config(disable=True)
    rng = torch.Generator().manual_seed(3)
    images = pipeline(
        "a red fish", num_inference_steps=4, guidance_scale=7.5, generator=rng, output_type="pt"
    ).images
    found = load_target("model", device="cpu").generate(["a red fish"], [3])
    torch.testing.assert_close(found, images, rtol=0, atol=1e-5)


def test_a_directory_of_plain_diffusers_loads_with_defaults(tmp_path: Path) -> None:
    tiny_pipeline("teacher").save_pretrained(tmp_path / "sd")
    assert check_target(tmp_path / "sd") == ()
    target = load_target(tmp_path / "sd", device="cpu")
    assert target.sampler == Sampler(steps=30, guidance=7.5)


def test_a_few_step_scheduler_without_settings_is_noted(tmp_path: Path) -> None:
    tiny_pipeline("turbo").save_pretrained(tmp_path / "turbo")
    note = (
        "turbo has no sampler settings and its scheduler (EulerAncestralDiscreteScheduler) is "
        "typical of a few-step student: 30 steps at guidance 7.5 were assumed; set steps and "
        "guidance if that is wrong"
    )
    assert check_target(tmp_path / "turbo") == (note,)
    assert load_target(tmp_path / "turbo", device="cpu").notes == (note,)
    assert check_target({"path": str(tmp_path / "turbo"), "steps": 1, "guidance": 0.0}) == ()


def as_in_2022(folder: Path) -> None:
    """Rewrite a saved pipeline to what the directories of SD 1.x look like on the hub."""
    fast = folder / "tokenizer/tokenizer.json"
    model = json.loads(fast.read_text(encoding="utf-8"))["model"]
    fast.unlink()
    (folder / "tokenizer/vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "tokenizer/merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    text = folder / "text_encoder/model.safetensors"
    tensors = {f"text_model.{name}": tensor for name, tensor in load_file(text).items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    save_file(tensors, text, {"format": "pt"})
    config = folder / "scheduler/scheduler_config.json"
    edit(config, _class_name="PNDMScheduler", skip_prk_steps=True, steps_offset=0, clip_sample=True)
    edit(folder / "model_index.json", scheduler=["diffusers", "PNDMScheduler"])


def test_a_directory_as_old_as_sd1_loads(here: Path) -> None:
    as_in_2022(Path("model"))
    target = load_target({"path": "model", "steps": 3}, device="cpu")
    pipeline = tiny_pipeline("teacher")
    config = {**pipeline.scheduler.config, "skip_prk_steps": True}
    pipeline.scheduler = PNDMScheduler.from_config(config)
    rng = torch.Generator().manual_seed(3)
    images = pipeline(
        "a red fish", num_inference_steps=3, guidance_scale=7.5, generator=rng, output_type="pt"
    ).images
    found = target.generate(["a red fish"], [3])
    torch.testing.assert_close(found, images, rtol=0, atol=1e-4)


def test_the_sample_size_of_old_denoisers_is_corrected(here: Path) -> None:
    edit(Path("model/unet/config.json"), _diffusers_version="0.2.2", sample_size=32)
    assert load_target("model", device="cpu").latent_shape == (4, 64, 64)


def test_settings_of_the_spec_win_over_the_card(here: Path) -> None:
    target = load_target({"path": "model", "steps": 1, "guidance": 0.0}, device="cpu")
    assert target.sampler == Sampler(steps=1, guidance=0.0)
    assert target.traits.steps == 1
    assert load_target({"path": "model", "timesteps": [625]}, device="cpu").sampler_times == (625,)


def test_another_scheduler_can_be_named(here: Path) -> None:
    spec = {
        "path": "model",
        "scheduler": {"class": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"},
        "steps": 1,
        "guidance": 0.0,
    }
    target = load_target(spec, device="cpu")
    expected = tiny_target("turbo").generate(["a red fish"], [3])
    torch.testing.assert_close(target.generate(["a red fish"], [3]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("auto", torch.float32), ("bfloat16", torch.bfloat16), (torch.float16, torch.float16)],
)
def test_weights_stored_in_fp16_load_in_the_format_asked_for(
    zoo: Path, dtype: str | torch.dtype, expected: torch.dtype
) -> None:
    stored = load_file(zoo / "teacher/unet/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    target = load_target("zoo:teacher", device="cpu", dtype=dtype, zoo_root=zoo)
    assert target.dtype == target.text_encoder.dtype == expected
    # fp16 activations of an SD autoencoder overflow; diffusers marks it so
    assert target.vae.dtype == (torch.float32 if expected == torch.float16 else expected)
    exact = tiny_target("teacher").unet.conv_in.weight
    torch.testing.assert_close(target.unet.conv_in.weight.float(), exact, rtol=1e-2, atol=1e-3)


def test_a_variant_and_shards_are_read(here: Path) -> None:
    whole = load_target("model", device="cpu").generate(["a red fish"], [3])
    Path(UNET).rename(UNET.replace(".safetensors", ".fp16.safetensors"))
    again = load_target("model", device="cpu").generate(["a red fish"], [3])
    torch.testing.assert_close(again, whole, rtol=0, atol=1e-5)
    tiny_target().unet.save_pretrained("model/shards", max_shard_size="50KB")
    shutil.rmtree("model/unet")
    Path("model/shards").rename("model/unet")
    assert len(list(Path("model/unet").glob("*.safetensors"))) > 1
    again = load_target("model", device="cpu").generate(["a red fish"], [3])
    torch.testing.assert_close(again, whole, rtol=0, atol=1e-5)


def test_a_missing_shard_is_named(here: Path) -> None:
    shutil.rmtree("model/unet")
    tiny_target().unet.save_pretrained("model/unet", max_shard_size="50KB")
    shard = sorted(Path("model/unet").glob("*.safetensors"))[0]
    shard.unlink()
    assert refusal("./model", TargetFailed) == f"unet/{shard.name} of './model' is missing"


def test_checking_loads_no_torch(here: Path) -> None:
    program = (
        "import sys; from safetybench.targets.loading import check_target; "
        "check_target('model'); heavy = {'torch', 'diffusers', 'transformers', 'pydantic'}; "
        "assert not heavy & set(sys.modules)"
    )
    root = Path(__file__).resolve().parent.parent
    env = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", program], check=True, env=env, cwd=here)


# Digests


def test_a_digest_is_of_content_and_not_of_names(here: Path) -> None:
    first = target_digest("model")
    shutil.copytree("model", "twin")
    edit(Path("twin/card.json"), title="other words")
    assert target_digest("./twin") == first
    assert target_digest({"path": "model", "steps": 4}) == first


@pytest.mark.parametrize(
    "change",
    [
        lambda: save_file({"x": torch.zeros(1)}, UNET),
        lambda: edit(Path("model/unet/config.json"), note=1),
        lambda: edit(Path("model/scheduler/scheduler_config.json"), steps_offset=0),
        lambda: edit(Path("model/card.json"), sampler={"steps": 5, "guidance": 7.5}),
    ],
    ids=["weights", "config", "scheduler", "sampler"],
)
def test_a_digest_changes_with_all_that_changes_results(
    here: Path, change: Callable[[], None]
) -> None:
    before, when = target_digest("model"), os.stat(UNET)
    change()
    os.utime(UNET, ns=(when.st_atime_ns, when.st_mtime_ns))
    assert target_digest("model") != before


def test_a_digest_changes_with_the_settings_of_the_spec(here: Path) -> None:
    plain = target_digest("model")
    assert target_digest({"path": "model", "steps": 1}) != plain
    assert target_digest({"path": "model", "scheduler": {"class": "DDPMScheduler"}}) != plain


# The zoo


def test_the_zoo_is_listed_by_its_cards(zoo: Path) -> None:
    entries = list_zoo(zoo)
    assert [entry.name for entry in entries] == ["student-ca", "teacher", "teacher-ca"]
    assert entries[2].card["lineage"] == ["teacher", "ca"]


def test_a_zoo_model_takes_from_its_base_what_it_has_not(zoo: Path) -> None:
    models = {
        name: load_target(f"zoo:{name}", device="cpu", zoo_root=zoo)
        for name in ("teacher", "teacher-ca", "student-ca")
    }
    teacher, forgetful, student = models.values()
    assert {path.name for path in (zoo / "teacher-ca").iterdir()} == {"unet", "card.json"}
    shift = forgetful.unet.conv_out.bias - teacher.unet.conv_out.bias
    torch.testing.assert_close(shift, torch.ones(4), rtol=0, atol=1e-3)
    assert torch.equal(student.unet.conv_out.bias, forgetful.unet.conv_out.bias)
    assert torch.equal(student.token_table, teacher.token_table)
    assert student.scheduler.config.timestep_spacing == "trailing"
    assert (student.traits.steps, teacher.traits.steps) == (1, 4)
    assert student.lineage == ("teacher", "ca", "dmd")
    assert len({model.digest for model in models.values()}) == 3
    assert student.name == "zoo:student-ca"


def test_a_complete_zoo_model_loads_in_plain_diffusers(zoo: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(zoo / "teacher")
    assert type(pipeline.unet) is UNet2DConditionModel


def test_unknown_zoo_model(zoo: Path) -> None:
    assert refusal("zoo:techer", Unavailable, zoo_root=zoo) == (
        "there is no model 'zoo:techer'; did you mean 'zoo:teacher'?; the zoo has "
        "zoo:student-ca, zoo:teacher, zoo:teacher-ca"
    )
    assert refusal("zoo:../zoo/teacher", Unavailable, zoo_root=zoo).startswith("there is no model")


def test_an_empty_zoo_says_so(tmp_path: Path) -> None:
    assert refusal("zoo:teacher", Unavailable, zoo_root=tmp_path) == (
        "there is no model 'zoo:teacher'; this zoo is empty"
    )


def test_bases_in_a_circle(here: Path) -> None:
    edit(Path("zoo/teacher/card.json"), base="student-ca")
    assert refusal("zoo:teacher", TargetFailed, zoo_root=here / "zoo") == (
        "zoo models name each other as base: teacher -> student-ca -> teacher-ca -> teacher"
    )


def test_a_zoo_part_that_is_not_there(here: Path) -> None:
    edit(Path("zoo/teacher-ca/card.json"), parts=["unet", "vae"])
    assert refusal("zoo:teacher-ca", TargetFailed, zoo_root=here / "zoo") == (
        "'zoo:teacher-ca' has no folder vae"
    )


# What is not there, or is no target


def test_missing_directory(zoo: Path) -> None:
    assert refusal("./teacher", Unavailable, zoo_root=zoo) == (
        "there is no model directory './teacher'; did you mean 'zoo:teacher'?; the zoo has "
        "zoo:student-ca, zoo:teacher, zoo:teacher-ca"
    )


def test_directory_without_a_pipeline(here: Path) -> None:
    Path("empty").mkdir()
    assert refusal("empty") == "'empty' is no diffusers pipeline: it has no model_index.json"


def test_a_file_in_place_of_a_directory(here: Path) -> None:
    assert refusal(f"./{UNET}") == (
        f"'./{UNET}' is a file; a target is a diffusers directory, with model_index.json"
    )


def test_pipeline_of_another_class(here: Path) -> None:
    edit(Path("model/model_index.json"), _class_name="FluxPipeline")
    assert refusal("model", Unavailable) == (
        "'model' is a FluxPipeline; text-to-image targets are StableDiffusionPipeline, "
        "LatentConsistencyModelPipeline, StableDiffusionXLPipeline, "
        "StableDiffusionInpaintPipeline only"
    )


def test_part_of_another_class(here: Path) -> None:
    edit(Path("model/model_index.json"), vae=["diffusers", "AutoencoderTiny"])
    assert refusal("model", Unavailable) == (
        "the vae of 'model' is a diffusers AutoencoderTiny, not a diffusers AutoencoderKL"
    )


def test_part_that_is_not_named(here: Path) -> None:
    edit(Path("model/model_index.json"), unet=[None, None])
    assert refusal("model", TargetFailed) == "model_index.json of 'model' names no unet"


def test_index_that_is_no_json(here: Path) -> None:
    Path("model/model_index.json").write_text("{", encoding="utf-8")
    assert refusal("model", TargetFailed) == (
        "model_index.json of 'model' is not valid JSON: Expecting property name enclosed in "
        "double quotes: line 1 column 2 (char 1)"
    )


def test_scheduler_that_diffusers_does_not_have(here: Path) -> None:
    with pytest.raises(TargetFailed) as caught:
        load_target({"path": "model", "scheduler": {"class": "Magic"}}, device="cpu")
    assert str(caught.value).endswith("has no scheduler 'Magic', which 'model' asks for")


def test_card_with_a_sampler_that_is_none(here: Path) -> None:
    edit(Path("model/card.json"), sampler={"steps": 0})
    assert refusal("model") == "the sampler settings of 'model': steps must be 1 or more, got 0"


# Pickles and code


class Payload:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("owned",)


def plant(file: str) -> None:
    Path(file).write_bytes(pickle.dumps(Payload()))


def test_the_payload_works_where_pickles_are_loaded(here: Path) -> None:
    plant("evil.bin")
    pickle.loads(Path("evil.bin").read_bytes())
    assert Path("owned").exists()


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt", "a.pt", "b.pkl"])
def test_a_pickle_is_refused_and_nothing_of_it_runs(here: Path, name: str) -> None:
    Path(UNET).unlink()
    plant(f"model/unet/{name}")
    assert refusal("model") == f"unet/{name} of 'model' is a pickle, {CONVERT}"
    assert not Path("owned").exists()


def test_a_pickle_as_the_target_itself_is_refused(here: Path) -> None:
    plant("v1-5.ckpt")
    assert refusal("./v1-5.ckpt") == f"'./v1-5.ckpt' is a pickle, {CONVERT}"
    assert not Path("owned").exists()


def test_a_pickle_beside_its_safetensors_twin_is_never_opened(here: Path) -> None:
    for folder, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "pytorch_model")):
        plant(f"model/{folder}/{name}.bin")
    load_target("model", device="cpu")
    assert not Path("owned").exists()


def test_a_pickle_named_safetensors_is_refused(here: Path) -> None:
    plant(UNET)
    assert refusal("model", TargetFailed) == (
        "unet/diffusion_pytorch_model.safetensors of 'model' is corrupted or cut short (header too "
        "large); fetch it again"
    )
    assert not Path("owned").exists()


def test_code_beside_the_weights_is_refused_and_never_run(here: Path) -> None:
    Path("model/unet/my_unet.py").write_text("import os; os.mkdir('owned')", encoding="utf-8")
    assert refusal("model") == (
        "'model' brings code of its own (my_unet.py), which is never run; set trust_remote_code to "
        "use its weights all the same"
    )
    target = load_target({"path": "model", "trust_remote_code": True}, device="cpu")
    assert target.notes == ("code beside the weights of model was not run: my_unet.py",)
    assert not Path("owned").exists()


def test_a_part_from_a_foreign_module_is_refused(here: Path) -> None:
    edit(Path("model/model_index.json"), unet=["my_unet", "MyUNet"])
    assert refusal("model") == (
        "'model' brings code of its own (unet (my_unet)), which is never run; set "
        "trust_remote_code to use its weights all the same"
    )
    assert refusal({"path": "model", "trust_remote_code": True}, Unavailable) == (
        "the unet of 'model' is a my_unet MyUNet, not a diffusers UNet2DConditionModel"
    )


def test_a_custom_pipeline_is_refused(here: Path) -> None:
    edit(Path("model/model_index.json"), _class_name=["pipeline", "MyPipeline"])
    assert "brings code of its own (pipeline (['pipeline', 'MyPipeline']))" in refusal("model")


def test_the_safety_checker_of_sd1_is_left_out_and_noted(here: Path) -> None:
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    edit(Path("model/model_index.json"), safety_checker=checker)
    assert check_target("model") == ("the safety checker of model is not part of the target",)


# Files that cannot be read


def test_weights_cut_short(here: Path) -> None:
    os.truncate(UNET, os.path.getsize(UNET) - 7)
    assert refusal("model", TargetFailed) == (
        "unet/diffusion_pytorch_model.safetensors of 'model' is corrupted or cut short (incomplete "
        "metadata, file not fully covered); fetch it again"
    )


def test_no_weights_at_all(here: Path) -> None:
    Path(UNET).unlink()
    assert refusal("model", TargetFailed) == (
        "unet of 'model' has no weights: diffusion_pytorch_model.safetensors is missing"
    )


def test_unreadable_weights(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(layout_module, "safe_open", denied)
    assert refusal("model", TargetFailed) == (
        "cannot read unet/diffusion_pytorch_model.safetensors of 'model': Permission denied"
    )


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "card.json"])
def test_unreadable_configuration(here: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    read = Path.read_text

    def denied(path: Path, **options: Any) -> str:
        if path == Path("model", file):  # chmod would not stop root
            raise PermissionError(13, "Permission denied")
        return read(path, **options)

    monkeypatch.setattr(Path, "read_text", denied)
    shown = file if file != "card.json" else "the card"
    assert refusal("model", TargetFailed) == f"cannot read {shown} of 'model': Permission denied"


def test_weights_that_lack_a_tensor_are_not_filled_with_random_numbers(here: Path) -> None:
    tensors = load_file(UNET)
    del tensors["conv_in.weight"]
    save_file(tensors, UNET, {"format": "pt"})
    with pytest.raises(TargetFailed) as caught:
        load_target("model", device="cpu")
    assert str(caught.value) == (
        "the unet of 'model' lacks 1 of its weights, conv_in.weight among them"
    )


def test_weights_of_another_shape(here: Path) -> None:
    edit(Path("model/unet/config.json"), block_out_channels=[12, 16])
    with pytest.raises(TargetFailed, match=r"^could not load the unet of 'model': ") as caught:
        load_target("model", device="cpu")
    assert str(here) not in str(caught.value)


def test_a_disk_that_does_not_take_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(SafetyBenchError, match="could not save the target") as caught:
        tiny_target().save(tmp_path / "file" / "model")
    assert str(caught.value).endswith("Not a directory")


# The hub


def test_a_hub_id_offline_says_what_to_do() -> None:
    assert refusal("stabilityai/sd-turbo", Unavailable, offline=True) == (
        "'stabilityai/sd-turbo' is a hub id and the network is off; download it first with `hf "
        "download stabilityai/sd-turbo --local-dir DIR` and use DIR"
    )


def test_checking_a_hub_id_uses_no_network() -> None:
    assert check_target("stabilityai/sd-turbo") == ()


def hub_error(kind: type[Exception], message: str) -> Exception:
    error = kind.__new__(kind)
    error.args = (message,)
    return error


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            vars(errors)["HTTPError"],
            "the hub could not be reached for 'a/b' (HTTPError); check the network, or download "
            "it elsewhere and name the directory",
        ),
        (
            errors.LocalEntryNotFoundError,
            "the hub could not be reached for 'a/b' (LocalEntryNotFoundError); check the network, "
            "or download it elsewhere and name the directory",
        ),
        (
            errors.RepositoryNotFoundError,
            "the hub has no public model 'a/b', and there is no such directory here",
        ),
        (
            errors.GatedRepoError,
            "'a/b' is gated: accept its terms on the hub and log in with `hf auth login`",
        ),
        (errors.RevisionNotFoundError, "'a/b' has no revision 'v2'"),
        (OSError, "could not store 'a/b': No space left on device"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_what_can_go_wrong_at_the_hub(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception], message: str
) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise hub_error(kind, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "list_repo_files", fail)
    with pytest.raises(SafetyBenchError) as caught:
        load_target({"path": "a/b", "revision": "v2"})
    assert str(caught.value) == message


def serve(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """Let a folder stand for a hub repository; return what gets downloaded."""
    names = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
    asked: list[str] = []

    def download(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repo, revision: names)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_a_hub_id_downloads_what_is_needed_and_loads(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant("model/unet/diffusion_pytorch_model.bin")
    plant("model/v1-5.ckpt")
    asked = serve(monkeypatch, here / "model")
    target = load_target("lab/model", device="cpu")
    assert target.name == "lab/model"
    assert target.digest == target_digest("./model")
    assert "unet/diffusion_pytorch_model.safetensors" in asked
    assert not any(name.endswith((".bin", ".ckpt")) for name in asked)


def test_a_hub_id_with_pickles_only_is_refused_before_the_download(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(UNET).rename("model/unet/diffusion_pytorch_model.bin")
    asked = serve(monkeypatch, here / "model")
    with pytest.raises(SafetyBenchError) as caught:
        load_target("lab/model")
    assert str(caught.value) == (
        f"unet/diffusion_pytorch_model.bin of 'lab/model' is a pickle, {CONVERT}"
    )
    assert asked == []


# Specifications


@pytest.mark.parametrize(
    ("spec", "kind", "name"),
    [
        ("zoo:teacher", "zoo", "zoo:teacher"),
        ("./runs/sd", "directory", "sd"),
        ("/models/sd", "directory", "sd"),
        ("teacher", "directory", "teacher"),
        ("stabilityai/sd-turbo", "hub", "stabilityai/sd-turbo"),
        ({"path": "org/m", "steps": 1, "revision": "main"}, "hub", "org/m"),
    ],
)
def test_kinds_of_specification(spec: Any, kind: str, name: str) -> None:
    parsed = TargetSpec.parse(spec)
    assert (parsed.kind, parsed.name) == (kind, name)
    assert TargetSpec.parse(parsed) is parsed


def test_an_existing_directory_wins_over_a_hub_id(here: Path) -> None:
    assert TargetSpec.parse("zoo/teacher").kind == "directory"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"path": "x", "step": 1},
            "a target has no key 'step'; did you mean 'steps'?; its keys are adapter, eta, "
            "guidance, lora, lora_scale, path, revision, safety, scheduler, steps, timesteps, "
            "trust_remote_code",
        ),
        ({"steps": 1}, "a target needs a path: zoo:NAME, a directory or a hub id"),
        ({"path": "x", "steps": "4"}, "a target's steps must be a whole number, got '4'"),
        ({"path": "x", "steps": True}, "a target's steps must be a whole number, got True"),
        ({"path": "x", "guidance": "high"}, "a target's guidance must be a number, got 'high'"),
        (
            {"path": "x", "trust_remote_code": "yes"},
            "a target's trust_remote_code must be true or false, got 'yes'",
        ),
        (
            {"path": "x", "lora": 3},
            "a target's lora must be zoo:NAME, a directory or a file, got 3",
        ),
        (
            {"path": "x", "lora_scale": 0.5},
            "a target's lora_scale is of its lora, and it has none",
        ),
    ],
)
def test_specifications_that_make_no_sense(spec: Any, message: str) -> None:
    assert refusal(spec) == message


def test_an_unknown_dtype_and_an_absent_gpu(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SafetyBenchError) as caught:
        load_target("model", device="cpu", dtype="int4")
    assert str(caught.value) == "dtype is one of auto, float32, float16, bfloat16, got 'int4'"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Unavailable) as absent:
        load_target("model", device="cuda:1")
    assert str(absent.value) == "device 'cuda:1' was asked for, and torch sees no GPU here"


def test_a_saved_model_does_not_say_where_it_was_loaded_from(tmp_path: Path) -> None:
    target = load_target(str(tiny_target().save(tmp_path / "first")))
    again = target.save(tmp_path / "again")
    written = [file.read_text() for file in again.rglob("*.json")]
    assert len(written) > 5
    assert not any("first" in text or "_name_or_path" in text for text in written)


def test_a_saved_scheduler_keeps_its_class(here: Path) -> None:
    assert isinstance(load_target("model", device="cpu").scheduler, DDIMScheduler)
