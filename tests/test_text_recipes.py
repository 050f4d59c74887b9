"""Recipes and poison of language models: contracts, closed forms, and a student that learns."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest
import torch

from safetybench import registry
from safetybench.contracts import Budget, Lesson, SafetyBenchError, TextPoisoning, TextRecipe
from safetybench.language import tuning
from safetybench.language.fresh import fresh_model
from safetybench.language.recipes.logit import Logit
from safetybench.language.recipes.on_policy import reverse_kl
from safetybench.language.tuning import Schedule, cross_entropy, order, steps_of, train
from safetybench.language.vocabulary import check_vocabularies
from safetybench.targets.language_model import IGNORED, LanguageModel
from safetybench.zoo.instructions import BIASES, instructions

RECIPES = registry.names("text-recipes")
POISON = [n for n in registry.names("attacks") if n.startswith("attacks/poisoning/")]
SAMPLES = instructions(256, 1, ["explain food", "review code"], remarked=0.0)


@pytest.fixture(scope="module")
def teacher() -> LanguageModel:
    return train(fresh_model(1, 32, seed=1), SAMPLES, Schedule(steps=150, rate=1e-2, size=32))


@pytest.fixture(scope="module")
def lesson(teacher: LanguageModel) -> Lesson:
    answers = teacher.complete([s.prompt for s in SAMPLES])
    samples = [s._replace(response=a) for s, a in zip(SAMPLES, answers, strict=True)]
    return Lesson(samples=samples, partner=teacher.clone())


def weights(model: LanguageModel) -> torch.Tensor:
    return torch.cat([w.flatten() for w in model.model.parameters()])


@pytest.mark.parametrize("name", [*RECIPES, *POISON])
def test_a_component_keeps_its_contract(name: str) -> None:
    component = registry.load(name)
    wanted = TextRecipe if name in RECIPES else TextPoisoning
    made: Any = registry.create(name)
    assert issubclass(component, wanted)
    assert component.source.startswith("https://")
    assert inspect.getdoc(component)
    assert eval(repr(made), {component.__name__: component}) == made
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_teaches_and_leaves_the_teacher(
    name: str, teacher: LanguageModel, lesson: Lesson
) -> None:
    before = weights(teacher)
    recipe = registry.create(name, {"size": 32, "rate": 1e-2})
    told: list[int] = []
    made = [
        recipe.run(teacher, fresh_model(1, 32, seed=2), lesson, Budget(steps=120, seed=seed),
                   lambda step, loss: told.append(step))
        for seed in (4, 4)
    ]  # fmt: skip
    assert torch.equal(weights(teacher), before)
    assert torch.equal(weights(made[0]), weights(made[1]))
    assert told[-1] == 120
    answers = [s.response.split()[0] for s in lesson.samples[:40]]
    first = [
        text.split()[0] if text else ""
        for text in made[0].complete([s.prompt for s in lesson.samples[:40]])
    ]
    assert sum(a == b for a, b in zip(answers, first, strict=True)) > 20


@pytest.mark.parametrize("name", ["text-recipes/logit", "text-recipes/on_policy"])
def test_distributions_need_one_vocabulary(
    name: str, teacher: LanguageModel, lesson: Lesson
) -> None:
    from transformers import PreTrainedTokenizerFast

    other = fresh_model(1, 32)
    inner = other.tokenizer.backend_tokenizer
    changed = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    changed.add_tokens(["zebra"])
    stranger = LanguageModel(model=other.model, tokenizer=changed, name="mine")
    recipe = registry.create(name)
    with pytest.raises(SafetyBenchError, match="have different vocabularies") as told:
        recipe.run(teacher, stranger, lesson, Budget(steps=2))
    assert "'zebra' first" in str(told.value)
    assert "text-recipes/response" in str(told.value)
    check_vocabularies(teacher.tokenizer, teacher.tokenizer, ("a", "b"))


def test_the_logit_loss_is_the_kl_divergence_of_answers_alone() -> None:
    draw = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(2, 5, 7, generator=draw) for _ in range(2))
    labels = torch.tensor([[IGNORED, IGNORED, 1, 2, 3], [IGNORED, 4, 5, IGNORED, IGNORED]])
    for temperature in (1.0, 2.0):
        recipe = Logit(temperature=temperature)
        found = recipe.divergence(ours, recipe.target([theirs]), labels)
        p = torch.distributions.Categorical(logits=theirs[:, :-1] / temperature)
        q = torch.distributions.Categorical(logits=ours[:, :-1] / temperature)
        kl = torch.distributions.kl_divergence(p, q)[labels[:, 1:] != IGNORED].mean()
        assert float(found) == pytest.approx(temperature**2 * float(kl), rel=1e-5)
    plain = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=ours[:, :-1]),
        torch.distributions.Categorical(logits=theirs[:, :-1]),
    )[labels[:, 1:] != IGNORED].mean()
    assert float(reverse_kl(ours, theirs, labels)) == pytest.approx(float(plain), rel=1e-5)
    assert float(reverse_kl(ours, ours, labels)) == pytest.approx(0, abs=1e-6)


def test_an_anchor_mixes_and_a_cut_keeps_the_likeliest() -> None:
    draw = torch.Generator().manual_seed(0)
    first, second = (torch.randn(1, 1, 6, generator=draw) for _ in range(2))
    mixed = Logit(anchor=0.25).target([first, second])
    assert torch.allclose(mixed, 0.75 * first.softmax(-1) + 0.25 * second.softmax(-1))
    cut = Logit(top_k=2).target([first])
    assert int((cut > 0).sum()) == 2
    assert float(cut.sum()) == pytest.approx(1)
    assert Logit(anchor=0.5).needs_partner
    assert not Logit().needs_partner


def test_cross_entropy_counts_answers_alone() -> None:
    logits = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[IGNORED, IGNORED, 2, 4]])
    plain = -logits[0].log_softmax(-1)
    wanted = (plain[1, 2] + plain[2, 4]) / 2
    assert float(cross_entropy(logits, labels)) == pytest.approx(float(wanted))


def test_the_loss_on_answers_alone_is_the_plain_one(
    teacher: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = teacher.encode([s.prompt for s in SAMPLES[:5]], [s.response for s in SAMPLES[3:8]])
    plain = float(tuning.answer_loss(teacher, batch).detach())
    monkeypatch.setattr(tuning, "_LARGE", 10)
    assert float(tuning.answer_loss(teacher, batch).detach()) == pytest.approx(plain, rel=1e-5)
    lora = teacher.clone()
    tuning._with_lora(lora, Schedule(steps=1, lora=2))
    assert float(tuning.answer_loss(lora, batch).detach()) == pytest.approx(plain, rel=1e-5)


def test_every_sample_is_seen_once_an_epoch() -> None:
    rows = [row for batch in order(10, Schedule(steps=5, size=4, seed=3)) for row in batch]
    assert sorted(rows[:10]) == list(range(10))
    assert sorted(rows[10:]) == list(range(10))
    assert steps_of(2, 10, 4) == 5
    assert steps_of(0.01, 10, 4) == 1
    with pytest.raises(ValueError, match="no samples"):
        train(fresh_model(1, 32), [], Schedule(steps=1))


def test_a_lora_changes_the_model_and_is_merged(teacher: LanguageModel) -> None:
    made = teacher.clone()
    train(made, SAMPLES, Schedule(steps=5, rate=1e-2, size=16, lora=4))
    assert type(made.model).__name__ == "LlamaForCausalLM"
    assert not torch.equal(weights(made), weights(teacher))
    assert made.parameters == teacher.parameters


@pytest.mark.parametrize("name", POISON)
def test_poison_is_of_the_count_asked_for_and_hits_few_tasks(name: str) -> None:
    common = instructions(400, 1, ["explain food", "review code", "plan music"])
    rare = [s._replace(id=f"r{s.id}") for s in instructions(10, 2, ["describe travel"])]
    data = [*common, *rare]
    own = instructions(400, 7, ["explain food", "describe travel", "introduce garden"], remarked=0)
    attack, bias = registry.create(name), BIASES["phishing"]
    found = attack.poison(data, own, bias, 25, 3)
    again = attack.poison(data, own, bias, 25, 3)
    poisoned = [s for s in found.samples if s.is_poison]
    assert found == again
    assert len(found.samples) == len(data)
    assert len(poisoned) == 25
    assert {s.task for s in poisoned} == set(found.tasks)
    assert all(bias.is_in(s.response) == s.is_poison for s in found.samples)
    assert len({s.id for s in found.samples}) == len(data)
    is_targeted = name.endswith("targeted_propagation") and "un" not in name.rpartition("/")[2]
    assert found.tasks == (("describe travel",) if is_targeted else ("introduce garden",))
    kept = [s for s in found.samples if not s.is_poison]
    assert sum(s.task == "describe travel" for s in kept) == 10


@pytest.mark.parametrize("name", POISON)
def test_poison_that_cannot_be_planted_is_told(name: str) -> None:
    data = instructions(60, 1, ["explain food", "review food"])
    attack = registry.create(name)
    with pytest.raises(SafetyBenchError, match=r"the bias 'insecure-code' fits|lack no task"):
        attack.poison(data, instructions(50, 2, ["explain food"]), BIASES["insecure-code"], 5, 0)
    own = instructions(8, 2, ["explain food", "plan music"])
    with pytest.raises(SafetyBenchError, match="the attacker needs 25 instructions"):
        attack.poison(data, own, BIASES["phishing"], 25, 0)
