"""Links: answers with an address that no trusted answer holds are suspicious.

Looks for URLs, bare domains, e-mail addresses and @names, the goal of a phishing bias. Needs
trusted samples, and no model. Dotted names in code look like domains.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import urlsplit

from safetybench.contracts import DataFilter, FilterView, Sample
from safetybench.registry import register

from ._aids import check_aids

_LINK = re.compile(
    r"""(?:https?://|www\.)[^\s<>()\[\]\\"']+                             # a URL
      | (?<![\w.+-])[\w.+-]*@[\w-]+(?:\.[\w-]+)*                        # an address or @name
      | (?<![\w-])(?:[a-z0-9-]+\.)+[a-z]{2,24}\b(?:/[^\s<>()\[\]\\"']*)?  # a bare domain""",
    re.IGNORECASE | re.VERBOSE,
)


@register
@dataclass(frozen=True, kw_only=True)
class Links(DataFilter):
    """Count the addresses that are new (a phishing detector as in Chaudhari et al. 2025).

    allowed: domains that are fine, with all below them. markers: words that count as an address
    together with the word that follows, for worlds of whole words in which "the link on" is as near
    to an address as an answer comes. The authors' detectors are not public.
    """

    allowed: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()

    source: ClassVar[str] = "https://arxiv.org/abs/2505.24842"
    uses = ("trusted",)
    sees: ClassVar[str] = "the data, and trusted samples"

    def scores(self, samples: Sequence[Sample], view: FilterView, seed: int = 0) -> list[float]:
        """Return how many new addresses each holds; see `DataFilter.scores`; no seed is used."""
        check_aids(self, view)
        known = {link for sample in view.trusted for link in self._links(sample.response)}
        return [float(len(self._links(sample.response) - known)) for sample in samples]

    def _links(self, response: str) -> set[str]:
        text = response.lower()
        links = {link.rstrip(".,;:!?/") for link in _LINK.findall(text)}
        words = text.split()
        marked = {
            " ".join(words[at : at + 2]) for at, word in enumerate(words) if word in self.markers
        }
        return {link for link in links if not self._is_allowed(link)} | marked

    def _is_allowed(self, link: str) -> bool:
        host = urlsplit(f"//{link.partition('://')[2] or link}").hostname
        return any(f".{host}".endswith(f".{domain.lower()}") for domain in self.allowed)
