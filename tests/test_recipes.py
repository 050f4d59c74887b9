"""What every distillation recipe keeps to, and distribution matching where the answer is known."""

from __future__ import annotations

import ast
import copy
import importlib
import pickle
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import torch
from torch import Tensor

from safetybench import registry
from safetybench.contracts import Budget, Means, Pictures, Recipe, SafetyBenchError, Unavailable
from safetybench.distill import checkpoint
from safetybench.targets.loading import load_target
from safetybench.targets.lora import save_lora
from tests.gaussian import CONDITIONAL, Normal, gaussian_target
from tests.targets import tiny_target

# torch itself says so of its own scripts when forward derivatives are first asked for.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")

NAMES = registry.names("recipes")
TRAINED = [name for name in NAMES if cast(Any, registry.load(name)).trains]
SMALL: dict[str, Any] = {"pairs": 6, "paths": 6, "warmup": 2, "batch": 3, "points": 8, "rank": 2,
                         "width": 8}  # fmt: skip
PROMPTS = [f"a {c} {o}" for c in ("red", "blue") for o in ("fish", "star", "moon")]
STEPS = 4
FILES = sorted((Path(__file__).parents[1] / "safetybench/distill/recipes").glob("[!_]*.py"))


def pictures() -> Pictures:
    rng = torch.Generator().manual_seed(9)
    return Pictures(torch.rand(6, 3, 16, 16, generator=rng), PROMPTS)


def shrunk(name: str, **options: Any) -> Any:
    known = getattr(registry.load(name), "__dataclass_fields__", {})
    return registry.create(name, {k: v for k, v in (SMALL | options).items() if k in known})


def weights_of(target: Any) -> dict[str, Tensor]:
    parts = {"unet": target.unet, "vae": target.vae, "text_encoder": target.text_encoder}
    if target.adapter is not None:
        parts["adapter"] = target.adapter
    return {
        f"{part}.{name}": weight.clone()
        for part, network in parts.items()
        for name, weight in network.state_dict().items()
    }


def differing(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


class Made(NamedTuple):
    """A recipe's name, its teacher, the teacher's weights before, and the student."""

    name: str
    teacher: Any
    before: dict[str, Tensor]
    student: Any


@pytest.fixture(scope="module")
def teacher() -> Any:
    return tiny_target("velocity")


@pytest.fixture(scope="module", params=TRAINED)
def made(request: pytest.FixtureRequest, teacher: Any) -> Made:
    before = weights_of(teacher)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    student = distilled(request.param, teacher)
    assert torch.equal(state, torch.get_rng_state())
    return Made(request.param, teacher, before, student)


def distilled(name: str, teacher: Any, seed: int = 1, **options: Any) -> Any:
    recipe = shrunk(name)
    return recipe.run(
        teacher, PROMPTS, Budget(steps=STEPS, seed=seed), images=pictures(), **options
    )


def test_there_are_recipes() -> None:
    assert {"recipes/dmd2", "recipes/consistency"} <= set(NAMES)
    assert len(NAMES) == len(FILES)


# The file


@pytest.mark.parametrize("name", NAMES)
def test_is_a_documented_recipe_with_a_source(name: str) -> None:
    recipe: Any = registry.load(name)
    assert issubclass(recipe, Recipe)
    assert recipe.source.startswith("https://")
    assert registry.describe(name).source == recipe.source
    for documented in (recipe, importlib.import_module(recipe.__module__)):
        assert documented.__doc__
        assert documented.__doc__.strip().split("\n")[0].endswith((".", ":"))


@pytest.mark.parametrize("name", NAMES)
def test_default_construction_repr_and_pickle(name: str) -> None:
    recipe: Any = registry.create(name)
    assert eval(repr(recipe), {type(recipe).__name__: type(recipe)}) == recipe
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert copy.deepcopy(recipe) == recipe
    with pytest.raises(AttributeError):
        recipe.anything_else = 1


def body(file: Path) -> list[str]:
    """Return the stripped lines of a recipe that say what it does: no imports, no blanks."""
    source = file.read_text(encoding="utf-8")
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for number in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                lines[number - 1] = ""
    return [line.strip() for line in lines if line.strip()]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recipe_fits_on_a_screen(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 80


def test_no_two_recipes_share_six_lines() -> None:
    runs = {f.stem: {tuple(b[i : i + 6]) for i in range(len(b) - 5)} for f in FILES
            if (b := body(f))}  # fmt: skip
    shared = {(a, b): same for a, b in combinations(runs, 2) if (same := runs[a] & runs[b])}
    assert shared == {}


# The run


def test_the_teacher_stays_as_it_was(made: Made) -> None:
    assert differing(made.before, weights_of(made.teacher)) == set()
    fresh = tiny_target("velocity")
    assert made.teacher.sampler == fresh.sampler
    assert made.teacher.name == fresh.name
    assert not any(w.requires_grad or w.grad is not None for w in made.teacher.unet.parameters())
    assert not made.teacher.unet._forward_hooks
    assert made.teacher.unet.training is False
    assert getattr(made.teacher.unet, "_hf_peft_config_loaded", False) is False


def test_the_student_shares_text_encoder_and_autoencoder_and_has_its_own_denoiser(
    made: Made,
) -> None:
    student = made.student
    assert student.text_encoder is made.teacher.text_encoder
    assert student.vae is made.teacher.vae
    assert student.unet is not made.teacher.unet
    learnt = [
        *student.unet.parameters(),
        *(student.adapter.parameters() if student.adapter else ()),
    ]
    assert not any(w.requires_grad for w in learnt)
    assert student.unet.training is False
    assert all(bool(w.isfinite().all()) for w in student.unet.parameters())


def test_the_student_learnt_something(made: Made) -> None:
    text = made.teacher.embed(made.teacher.tokenize(PROMPTS[:2]))
    noise, t = made.teacher.start_noise([1, 2]), torch.tensor([600, 600])
    with torch.no_grad():
        assert not torch.equal(made.student.x0(noise, t, text), made.teacher.x0(noise, t, text))


def test_the_student_uses_the_steps_it_declares_and_one_pass_for_each(made: Made) -> None:
    student, calls = made.student, []
    hook = student.unet.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    try:
        before = student.nfe
        images = student.generate(PROMPTS[:3], [1, 2, 3])
    finally:
        hook.remove()
    assert calls == [3] * student.sampler.steps
    assert student.nfe - before == 3 * student.sampler.steps
    assert student.traits.steps == student.sampler.steps == len(student.sampler_times)
    times = getattr(registry.create(made.name), "times", None)
    if times is not None:
        assert student.sampler_times == times
    assert student.traits.has_intermediate_state is (student.sampler.steps > 1)
    assert student.traits.negative_prompt_works is False
    assert bool(((images >= 0) & (images <= 1)).all())
    alone = student.generate(PROMPTS[1:2], [2])
    torch.testing.assert_close(images[1:2], alone, rtol=1e-4, atol=1e-4)


def test_a_one_step_student_generates_its_answer_at_its_start(made: Made) -> None:
    student = made.student
    if student.sampler.steps > 1:
        pytest.skip("of several steps")
    (start,) = student.sampler_times
    text, noise = student.embed(student.tokenize(PROMPTS[:2])), student.start_noise([7, 8])
    with torch.no_grad():
        answer = student.decode(student.x0(noise, torch.full((2,), start), text))
    images = student.generate(PROMPTS[:2], [7, 8])
    torch.testing.assert_close(images, answer, rtol=1e-4, atol=1e-4)


def test_a_saved_student_makes_the_same_images(made: Made, tmp_path: Path) -> None:
    student, spec = made.student, str(tmp_path / "model")
    if getattr(student.unet, "_hf_peft_config_loaded", False):
        file = tmp_path / save_lora(student.unet, tmp_path)  # in fp16
        made.teacher.with_sampler(student.sampler, student.scheduler).save(tmp_path / "model")
        again = load_target({"path": spec, "lora": str(file)})
    else:
        student.save(tmp_path / "model")
        again = load_target(spec)
    assert again.sampler == student.sampler
    wanted = student.generate(PROMPTS[:2], [7, 8])
    torch.testing.assert_close(again.generate(PROMPTS[:2], [7, 8]), wanted, rtol=1e-3, atol=1e-3)


class Killed(Exception):
    """What a test ends a training with."""


def test_a_killed_run_goes_on_to_the_same_student(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, save, saved = tmp_path / "state.pt", checkpoint.save, 0

    def save_then_die(path: Path, content: dict[str, Any]) -> None:
        nonlocal saved
        save(path, content)
        saved += 1
        if saved == 3:
            raise Killed

    means = Means(checkpoint=file, save_every=1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_then_die)
        with pytest.raises(Killed):
            distilled(made.name, made.teacher, means=means)
    torch.manual_seed(5)
    again = distilled(made.name, made.teacher, means=means)
    assert differing(weights_of(made.student), weights_of(again)) == set()
    assert not list(tmp_path.glob("*.partial"))


def test_another_seed_makes_another_student(made: Made) -> None:
    other = distilled(made.name, made.teacher, seed=2)
    assert differing(weights_of(made.student), weights_of(other))


@pytest.mark.parametrize("name", TRAINED)
def test_what_cannot_be_run_is_refused(name: str, teacher: Any) -> None:
    recipe = shrunk(name)
    with pytest.raises(ValueError, match=r"^prompts and steps are needed, got 0, 4$"):
        recipe.run(teacher, [], Budget(steps=4), images=pictures())
    with pytest.raises(ValueError, match=r"^prompts and steps are needed, got 6, 0$"):
        recipe.run(teacher, PROMPTS, Budget(steps=0), images=pictures())
    if recipe.reads_images:
        with pytest.raises(Unavailable, match="reads real images"):
            recipe.run(teacher, PROMPTS, Budget(steps=1))
    with pytest.raises(SafetyBenchError, match="batch and lr must be positive and ema in"):
        registry.create(name, {"batch": 0})


# Means


@pytest.mark.parametrize("name", ["recipes/dmd2", "recipes/consistency"])
def test_a_lora_in_the_place_of_all_weights_leaves_the_base_as_it_was(
    name: str, teacher: Any
) -> None:
    student = distilled(name, teacher, means=Means(lora=2))
    base = {n.replace(".base_layer", ""): w for n, w in student.unet.state_dict().items()}
    own = teacher.unet.state_dict()
    assert all(torch.equal(base[n], w) for n, w in own.items())
    ups = [w for n, w in base.items() if "lora_B" in n]
    assert len(base) > len(own)
    assert sum(bool(w.any()) for w in ups) > 0.5 * len(ups)


@pytest.mark.parametrize("name", ["recipes/scott", "recipes/sana_sprint"])
def test_checkpointing_activations_changes_nothing(name: str, teacher: Any) -> None:
    plain = distilled(name, teacher)
    student = distilled(name, teacher, means=Means(recompute=True))
    wanted, found = weights_of(plain), weights_of(student)
    for key, weight in wanted.items():
        torch.testing.assert_close(found[key], weight, rtol=1e-4, atol=1e-6)
    assert student.unet.is_gradient_checkpointing is False


@pytest.mark.parametrize("name", ["recipes/dmd2", "recipes/hyper_sd"])
def test_half_precision_trains_float_weights(name: str, teacher: Any) -> None:
    student = distilled(name, teacher, means=Means(half=True))
    assert {w.dtype for w in student.unet.parameters()} == {torch.float32}
    assert all(bool(w.isfinite().all()) for w in student.unet.parameters())
    full = weights_of(distilled(name, teacher))
    assert differing(full, weights_of(student))


# Where the answer is known


def gaussian_student(name: str, **options: Any) -> Normal:
    """Distil a target whose data are N(1.5, 0.6^2) for every prompt; return what is generated."""
    known = {"warmup": 0, "lr": 0.03, "fake_lr": 0.06, "times": (800,), "batch": 48}
    student = shrunk(name, **{**known, **options}).run(
        gaussian_target(), ["a"] * 8, Budget(steps=220, seed=1)
    )
    noise = torch.randn(4000, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    (start,) = student.sampler.timesteps
    with torch.no_grad():
        x = student.x0(noise, torch.full((4000,), start), torch.ones(4000, 1, 1))
    return Normal(x.mean().item(), x.std().item())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("recipes/dmd2", {}),
        ("recipes/decoupled_dmd", {}),
        ("recipes/decoupled_dmd", {"coupled": True}),
        ("recipes/sid_few_step", {"policy": "lsg"}),
    ],
)
def test_a_gaussian_teacher_is_matched_from_a_collapsed_start(
    name: str, options: dict[str, Any]
) -> None:
    target = gaussian_target()
    noise = torch.randn(4000, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    start = target.x0(noise, torch.full((4000,), 800), torch.ones(4000, 1, 1))
    assert start.std() < 0.2  # a denoiser at its start says little but the mean
    student = gaussian_student(name, guidance=1.0, **options)
    assert student.mean == pytest.approx(CONDITIONAL.mean, abs=0.08), student
    assert student.spread == pytest.approx(CONDITIONAL.spread, abs=0.08), student


@pytest.mark.parametrize("name", ["recipes/dmd2", "recipes/decoupled_dmd"])
def test_guidance_is_baked_in_with_a_higher_mean_and_less_spread(name: str) -> None:
    student = gaussian_student(name, guidance=2.0)
    assert student.mean > CONDITIONAL.mean + 0.4
    assert student.spread < CONDITIONAL.spread / 1.5


def test_regressing_on_the_teachers_samples_brings_the_student_near(teacher: Any) -> None:
    told: list[tuple[int, float]] = []
    recipe = shrunk("recipes/dmd2", warmup=101, lr=3e-3, pairs=4)
    recipe.run(teacher, PROMPTS, Budget(steps=1), lambda *line: told.append(line))
    assert [step for step, _ in told] == [*range(0, 101, 10), 101]
    assert told[10][1] < 0.7 * told[0][1]
