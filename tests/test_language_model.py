"""The language-model target: batches, seeds and caches change no answer; files come back whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from safetybench.contracts import GeneratesText, SafetyBenchError, ScoresText, TargetFailed
from safetybench.language.fresh import fresh_model, world_tokenizer
from safetybench.language.tuning import Schedule, train
from safetybench.targets.language_loading import (
    check_language,
    is_language,
    language_digest,
    load_language,
    parse,
)
from safetybench.targets.language_model import LanguageModel, draw
from safetybench.zoo.instructions import instructions

SAMPLES = instructions(200, 1)
PROMPTS = [sample.prompt for sample in SAMPLES[:12]]
RESPONSES = [sample.response for sample in SAMPLES[:12]]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    made = fresh_model(1, 32, seed=3)
    return train(made, SAMPLES, Schedule(steps=60, rate=1e-2, size=32))


def test_it_is_what_contracts_call_a_language_model(model: LanguageModel) -> None:
    assert isinstance(model, GeneratesText)
    assert isinstance(model, ScoresText)
    assert not any(weight.requires_grad for weight in model.model.parameters())


def test_an_answer_does_not_depend_on_its_batch(model: LanguageModel) -> None:
    seeds = list(range(12))
    for temperature in (0.0, 1.0):
        whole = model.complete(PROMPTS, seeds, temperature)
        parts = [
            model.complete([p], [s], temperature)[0] for p, s in zip(PROMPTS, seeds, strict=True)
        ]
        assert whole == parts


def test_greedy_answers_are_those_without_a_cache(model: LanguageModel) -> None:
    ids = model.prompt_ids(PROMPTS[0])
    written: list[int] = []
    for _ in range(model.max_tokens):
        scores = model.model(input_ids=torch.tensor([ids + written])).logits[0, -1]
        written.append(int(scores.argmax()))
        if written[-1] == model.end:
            break
    assert model.tokens(PROMPTS[:1]) == [written]


def test_sampling_draws_from_the_distribution() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0]]).log().repeat(6000, 1)
    rolls = (torch.arange(6000) + 0.5) / 6000
    counts = torch.bincount(draw(scores, rolls, 1.0, 0, 1.0), minlength=3)
    assert counts.tolist() == [1000, 3000, 2000]
    assert set(draw(scores, rolls, 1.0, 2, 1.0).tolist()) == {1, 2}
    assert set(draw(scores, rolls, 1.0, 0, 0.5).tolist()) == {1}
    cold = torch.bincount(draw(scores, rolls, 0.5, 0, 1.0), minlength=3)
    assert cold.tolist() == pytest.approx([6000 / 14, 6000 * 9 / 14, 6000 * 4 / 14], abs=1)


def test_log_probabilities_are_those_of_each_token(model: LanguageModel) -> None:
    found = model.log_probs(PROMPTS, RESPONSES)
    batch = model.encode(PROMPTS[:1], RESPONSES[:1])
    plain = model.logits(batch)[0].log_softmax(-1)
    start = len(model.prompt_ids(PROMPTS[0]))
    ids = model.response_ids(RESPONSES[0])
    wanted = [float(plain[start + i - 1, token]) for i, token in enumerate(ids)]
    assert found[0].tolist() == pytest.approx(wanted, abs=1e-4)
    assert [len(row) for row in found] == [len(model.response_ids(r)) for r in RESPONSES]


def test_features_do_not_depend_on_the_batch(model: LanguageModel) -> None:
    whole = model.features(PROMPTS, RESPONSES)
    alone = model.features(PROMPTS[3:4], RESPONSES[3:4])
    assert torch.allclose(whole[3:4], alone, atol=1e-5)


def test_bad_arguments_are_refused(model: LanguageModel) -> None:
    with pytest.raises(ValueError, match="temperature must be 0 or more, got -1"):
        model.complete(PROMPTS, [], -1)
    with pytest.raises(ValueError, match="12 prompts need as many seeds, got 1"):
        model.complete(PROMPTS, [1], 1.0)


def test_a_saved_model_answers_the_same_and_has_a_digest(
    model: LanguageModel, tmp_path: Path
) -> None:
    model.save(tmp_path / "a", {"name": "mine", "lineage": ["mine"]})
    loaded = load_language(str(tmp_path / "a"))
    assert loaded.name == "mine"
    assert loaded.max_tokens == model.max_tokens
    half = model.clone()
    half.model.half().float()
    assert loaded.complete(PROMPTS) == half.complete(PROMPTS)
    assert is_language(str(tmp_path / "a"))
    assert not is_language("zoo:teacher")
    digest = language_digest(str(tmp_path / "a"), offline=True)
    card = json.loads((tmp_path / "a" / "card.json").read_text())
    (tmp_path / "a" / "card.json").write_text(json.dumps({**card, "name": "other"}))
    assert language_digest(str(tmp_path / "a"), offline=True) == digest
    (tmp_path / "a" / "config.json").write_text("{}")
    assert language_digest(str(tmp_path / "a"), offline=True) != digest


def test_a_tokenizer_without_an_end_token_is_refused_before_weights_are_read(
    model: LanguageModel, tmp_path: Path
) -> None:
    model.save(tmp_path / "a")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = tmp_path / "a" / name
        if file.exists():
            told = json.loads(file.read_text())
            told.pop("eos_token", None)
            file.write_text(json.dumps(told))
    with pytest.raises(SafetyBenchError, match="has no end token, so no answer would ever end"):
        check_language(str(tmp_path / "a"), offline=True)
    tokenizer = world_tokenizer().__class__(
        tokenizer_object=world_tokenizer().backend_tokenizer, pad_token="<pad>"
    )
    with pytest.raises(TargetFailed, match="has no end token"):
        LanguageModel(model=model.model, tokenizer=tokenizer, name="mine")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"language": "x", "frsh": {}}, "a language model has no key 'frsh'"),
        ({"fresh": {"layers": 0, "width": 4}}, "fresh takes whole numbers for layers, width"),
        ({"fresh": {"layers": 1}}, "fresh takes whole numbers for layers, width"),
        ({"layers": 2}, "either `language`, a path or hub id, or `fresh`"),
        ({"language": "x", "layers": -1}, "layers of a language model must be 1 or more"),
    ],
)
def test_a_bad_specification_is_told(spec: dict[str, object], message: str) -> None:
    with pytest.raises(SafetyBenchError) as told:
        parse(spec)
    assert message in str(told.value)


def test_what_is_no_language_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(SafetyBenchError, match=r"there is no language model '\./none'"):
        check_language("./none", offline=True)
    with pytest.raises(SafetyBenchError, match=r"it has no config\.json"):
        check_language(str(tmp_path), offline=True)
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(SafetyBenchError, match="is no causal language model, it is a BertModel"):
        check_language(str(tmp_path), offline=True)
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(SafetyBenchError, match="pickles are not loaded"):
        check_language(str(tmp_path), offline=True)
    with pytest.raises(SafetyBenchError, match="width that 2 x heads divides"):
        fresh_model(1, 30)
