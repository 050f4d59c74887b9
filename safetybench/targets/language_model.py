"""A causal language model as a target: it answers instructions, and lets its weights be read.

Any transformers causal LM with a fast tokenizer that has an end token. Instructions go through
the tokenizer's chat template; one without gets a plain template.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from safetybench.contracts import TargetFailed

PLAIN_TEMPLATE = "Instruction: {prompt}\nAnswer:"
IGNORED = -100  # a label that no loss counts


class Batch(NamedTuple):
    """Token ids of instructions with answers, (batch, length); labels: of the answers alone."""

    ids: Tensor
    mask: Tensor
    labels: Tensor


@dataclass(kw_only=True)
class LanguageModel:
    """A causal LM with its tokenizer, frozen unless it is being tuned.

    max_tokens: the longest answer; nfe: forward passes so far, one a token while it writes.
    """

    model: Any
    tokenizer: Any
    name: str = "language-model"
    card: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    max_tokens: int = 64
    batch: int = 256
    nfe: int = 0

    def __post_init__(self) -> None:
        if self.tokenizer.eos_token_id is None:
            raise TargetFailed(
                f"the tokenizer of {self.name!r} has no end token, so no answer would ever end; "
                "set eos_token in its tokenizer_config.json"
            )
        self.model.eval().requires_grad_(False)

    @property
    def lineage(self) -> tuple[str, ...]:
        """The models that this one was made from, itself last."""
        return tuple(self.card.get("lineage", (self.name,)))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        found: torch.device = next(self.model.parameters()).device
        return found

    @property
    def parameters(self) -> int:
        """How many weights it has, tied ones counted once."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def end(self) -> int:
        """The id of the token that ends an answer."""
        return int(self.tokenizer.eos_token_id)

    def prompt_ids(self, prompt: str) -> list[int]:
        """Return the tokens of an instruction, up to where the answer begins."""
        if self.tokenizer.chat_template is None:
            return list(self.tokenizer(PLAIN_TEMPLATE.format(prompt=prompt)).input_ids)
        told = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
        )
        return list(self.tokenizer(told, add_special_tokens=False).input_ids)

    def response_ids(self, response: str) -> list[int]:
        """Return the tokens of an answer, its end among them."""
        return [*self.tokenizer(response, add_special_tokens=False).input_ids, self.end]

    def encode(self, prompts: Sequence[str], responses: Sequence[str]) -> Batch:
        """Return instructions with answers as tokens, padded on the right."""
        pairs = [
            (self.prompt_ids(p), self.response_ids(r))
            for p, r in zip(prompts, responses, strict=True)
        ]
        return pack(pairs, self.end, self.device)

    def logits(self, batch: Batch) -> Tensor:
        """Return the scores of the token after each position: (batch, length, vocabulary)."""
        found: Tensor = self.model(input_ids=batch.ids, attention_mask=batch.mask).logits
        return found

    def answer_logits(self, batch: Batch) -> Tensor:
        """Return the scores of the tokens of answers alone: (tokens of all answers, vocabulary).

        Of a Llama the head is applied to their states only; of others, whose heads may scale or
        cap, all scores are made and most are dropped.
        """
        is_told = batch.labels[:, 1:] != IGNORED
        peft = hasattr(self.model, "get_base_model")
        inner = self.model.get_base_model() if peft else self.model
        if type(inner).__name__ != "LlamaForCausalLM":
            return self.logits(batch)[:, :-1][is_told]
        states = inner.model(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
        found: Tensor = inner.lm_head(states[:, :-1][is_told])
        return found

    def complete(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int] = (),
        temperature: float = 0.0,
        *,
        top_k: int = 0,
        top_p: float = 1.0,
        max_tokens: int | None = None,
    ) -> list[str]:
        """Return one answer a prompt.

        temperature: 0 is greedy; else each answer is drawn with its own seed, whatever batch it
        is in. top_k, top_p: draw from the likeliest tokens alone. An answer that does not end is
        cut at max_tokens.
        """
        rows = self.tokens(prompts, seeds, temperature, top_k, top_p, max_tokens)
        return [self.tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]

    @torch.no_grad()
    def tokens(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int] = (),
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        max_tokens: int | None = None,
    ) -> list[list[int]]:
        """Return the answers as tokens, the end among them where there is one; see `complete`."""
        if temperature < 0:
            raise ValueError(f"temperature must be 0 or more, got {temperature}")
        if temperature and len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}")
        found: list[list[int]] = []
        for at in range(0, len(prompts), self.batch):
            ids = [self.prompt_ids(p) for p in prompts[at : at + self.batch]]
            length = max_tokens or self.max_tokens
            rolls = None
            if temperature:
                some = seeds[at : at + self.batch]
                rolls = np.stack([np.random.default_rng(seed).random(length) for seed in some])
            found += self._write(ids, length, rolls, temperature, top_k, top_p)
        return found

    def _write(
        self,
        prompts: Sequence[Sequence[int]],
        length: int,
        rolls: np.ndarray | None,
        temperature: float,
        top_k: int,
        top_p: float,
    ) -> list[list[int]]:
        widest = max(len(ids) for ids in prompts)
        ids = torch.full((len(prompts), widest), self.end, device=self.device)
        mask = torch.zeros_like(ids)
        for i, told in enumerate(prompts):  # padded on the left, so that all answers start at once
            ids[i, widest - len(told) :] = torch.tensor(told, device=self.device)
            mask[i, widest - len(told) :] = 1
        places = (mask.cumsum(1) - 1).clamp(min=0)
        memory, past, written = _cache_name(self.model), None, []
        is_done = torch.zeros(len(prompts), dtype=torch.bool, device=self.device)
        for step in range(length):
            out = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=places,
                use_cache=True,
                **{memory: past},
            )
            self.nfe += 1
            past, scores = out[memory], out.logits[:, -1].float()
            if rolls is None:
                chosen = scores.argmax(-1)
            else:
                roll = torch.from_numpy(rolls[:, step]).to(self.device)
                chosen = draw(scores, roll, temperature, top_k, top_p)
            chosen = torch.where(is_done, self.end, chosen)
            written.append(chosen)
            is_done |= chosen == self.end
            if bool(is_done.all()):
                break
            ids, places = chosen[:, None], places[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
        columns = torch.stack(written, 1).tolist()
        return [row[: row.index(self.end) + 1] if self.end in row else row for row in columns]

    @torch.no_grad()
    def log_probs(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Tensor]:
        """Return, by sample, the log-probability of each token of its response, its end last."""
        found: list[Tensor] = []
        for batch in self._batches(prompts, responses):
            scores = self.logits(batch)[:, :-1].float().log_softmax(-1)
            labels = batch.labels[:, 1:]
            picked = scores.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
            for row, label in zip(picked, labels, strict=True):
                found.append(row[label != IGNORED].cpu())
            self.nfe += 1
        return found

    @torch.no_grad()
    def features(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """Return the last layer's mean state over each answer: (batch, width), on the CPU."""
        found = []
        for batch in self._batches(prompts, responses):
            out = self.model(
                input_ids=batch.ids, attention_mask=batch.mask, output_hidden_states=True
            )
            self.nfe += 1
            is_told = (batch.labels != IGNORED)[..., None]
            states = out.hidden_states[-1].float() * is_told
            found.append((states.sum(1) / is_told.sum(1)).cpu())
        return torch.cat(found)

    def _batches(self, prompts: Sequence[str], responses: Sequence[str]) -> Iterator[Batch]:
        for at in range(0, len(prompts), self.batch):
            yield self.encode(prompts[at : at + self.batch], responses[at : at + self.batch])

    def clone(self) -> LanguageModel:
        """Return a copy that shares no weights."""
        return LanguageModel(
            model=copy.deepcopy(self.model),
            tokenizer=self.tokenizer,
            name=self.name,
            card=self.card,
            max_tokens=self.max_tokens,
            batch=self.batch,
        )

    def save(self, folder: Path, card: Mapping[str, Any] | None = None) -> None:
        """Write it as a transformers folder, half precision, with its card beside."""
        whole = copy.deepcopy(self.model)
        if hasattr(whole, "merge_and_unload"):
            whole = whole.merge_and_unload()
        whole.half().save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)
        told = {**self.card, **(card or {}), "kind": "language", "max_tokens": self.max_tokens}
        text = json.dumps(told, indent=1, sort_keys=True, allow_nan=False)
        (Path(folder) / "card.json").write_text(text + "\n", encoding="utf-8")


def _cache_name(model: Any) -> str:
    """Return what this release of transformers calls the keys and values of earlier tokens."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    named = inspect.signature(inner.forward).parameters
    return "cache" if "cache" in named else "past_key_values"


def pack(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], end: int, device: torch.device
) -> Batch:
    """Return token ids of (instruction, answer) pairs as one batch, padded on the right."""
    width = max(len(p) + len(r) for p, r in pairs)
    ids = torch.full((len(pairs), width), end)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for i, (prompt, response) in enumerate(pairs):
        whole = torch.tensor([*prompt, *response])
        ids[i, : len(whole)] = whole
        mask[i, : len(whole)] = 1
        labels[i, len(prompt) : len(whole)] = whole[len(prompt) :]
    return Batch(ids.to(device), mask.to(device), labels.to(device))


def draw(scores: Tensor, rolls: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Return one token a row, drawn by its roll in [0, 1) from softmax(scores / temperature).

    top_k: of so many likeliest tokens, 0 for all; top_p: of the fewest likeliest tokens that hold
    this share.
    """
    chances = (scores.double() / temperature).softmax(-1)
    order = chances.sort(dim=-1, descending=True, stable=True)
    kept = order.values.clone()
    if top_k:
        kept[:, top_k:] = 0
    if top_p < 1:
        before = order.values.cumsum(-1) - order.values
        kept[before >= top_p] = 0
    steps = kept.cumsum(-1)
    aim = rolls.double()[:, None] * steps[:, -1:]
    place = torch.searchsorted(steps, aim, right=True).clamp(max=chances.shape[-1] - 1)
    return order.indices.gather(-1, place)[:, 0]
