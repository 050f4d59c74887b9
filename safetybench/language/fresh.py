"""Untrained language models: a small Llama with the words of the instruction world."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from safetybench.contracts import SafetyBenchError
from safetybench.targets.language_model import LanguageModel

_TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'user' %}<s> {{ message.content }} <a>"
    "{% else %} {{ message.content }} </s>{% endif %}{% endfor %}"
)
_LENGTH = 64  # positions, twice what an instruction with its answer takes


@cache
def world_tokenizer() -> Any:
    """Return the tokenizer of the instruction world: a token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from safetybench.zoo.instructions import vocabulary

    specials = ["<pad>", "<s>", "</s>", "<a>", "<unk>"]
    table = {word: i for i, word in enumerate([*specials, *vocabulary()])}
    inner = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<a>"],
        clean_up_tokenization_spaces=False,
        model_max_length=_LENGTH,
    )
    found.chat_template = _TEMPLATE
    return found


def fresh_model(
    layers: int, width: int, heads: int = 4, *, seed: int = 0, name: str = "fresh"
) -> LanguageModel:
    """Return an untrained Llama over the words of the instruction world.

    Raises:
        SafetyBenchError: the width cannot be shared among the heads.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    if min(layers, width, heads) < 1 or width % (2 * heads):
        raise SafetyBenchError(
            f"a fresh model needs layers and a width that 2 x heads divides, got {layers} layers, "
            f"width {width}, {heads} heads"
        )
    tokenizer = world_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return LanguageModel(model=model, tokenizer=tokenizer, name=name, max_tokens=32)
