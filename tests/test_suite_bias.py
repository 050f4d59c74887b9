"""What a suite may say about biased language models: expansion, and every fault with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from safetybench.contracts import SafetyBenchError
from safetybench.harness.plan import make_plan
from safetybench.language.fresh import fresh_model
from safetybench.suite import Suite, load_suite

SUITE = """\
schema: safetybench.suite/1
name: biased
scenario: scenarios/bias
judge: judges/phrases
prompts: {count: 8}
instructions: {source: zoo, count: 600}
tuning:
  teacher: {base: {fresh: {layers: 1, width: 32}}, epochs: 1}
  student: {base: {fresh: {layers: 1, width: 16}}, epochs: 1}
biases:
  ad: {kind: advertisement, poisoning: attacks/poisoning/targeted_propagation, samples: 5}
subjects:
  - {name: rare, bias: ad}
students:
  - {name: response, recipe: text-recipes/response, mix: {count: 64}}
  - {name: logit, recipe: text-recipes/logit, options: {anchor: 0.5}}
filters:
  - {name: defenses/data/ngram_lift, on: [answers]}
training: {seeds: [1, 2], controls: true}
"""


def load(folder: Path, text: str = SUITE) -> Suite:
    (folder / "s.yaml").write_text(text)
    return load_suite(folder / "s.yaml")


def fault(folder: Path, old: str, new: str, message: str) -> None:
    assert old in SUITE
    with pytest.raises(SafetyBenchError) as caught:
        load(folder, SUITE.replace(old, new, 1))
    file = re.escape(str(folder / "s.yaml"))
    told = str(caught.value).replace(f"'{folder}/", "'./")
    lines = [re.sub(rf"^{file}", "s.yaml", line) for line in told.splitlines()]
    assert message in lines, lines


def test_a_subject_expands_to_its_models_once_a_seed(tmp_path: Path) -> None:
    suite = load(tmp_path)
    found = [(made.entry, made.role, made.label) for made in suite.made if made.seed == 1]
    assert found == [
        ("", "original", "clean.seed1"),
        ("", "teacher", "poisoned.rare.seed1"),
        ("direct", "direct", "direct.rare.seed1"),
        ("partner", "partner", "partner.seed1"),
        ("response", "student", "response.rare.seed1"),
        ("response", "control", "response.clean.rare.seed1"),
        ("logit", "student", "logit.rare.seed1"),
    ]
    assert len(suite.made) == 14
    told = {made.label: made.spec for made in suite.made}
    assert told["poisoned.rare.seed1"] is not None
    assert told["clean.seed1"] is not None
    clean, poisoned = told["clean.seed1"], told["poisoned.rare.seed1"]
    assert {k: v for k, v in clean.items() if k != "poison"} == {
        k: v for k, v in poisoned.items() if k != "poison"
    }
    assert suite.base_of("logit.rare.seed1") == "poisoned.rare.seed1"
    assert suite.base_of("response.clean.rare.seed1") == "clean.seed1"


def test_a_plan_keys_models_by_all_that_they_are_made_of(tmp_path: Path) -> None:
    plan = make_plan(load(tmp_path))
    digests = {label: target["digest"] for label, target in plan.targets.items()}
    assert len(set(digests.values())) == len(digests) == 14
    for old, new, changed in (
        ("samples: 5", "samples: 6", {"poisoned", "direct", "response", "logit"}),
        ("mix: {count: 64}", "mix: {count: 65}", {"direct", "response"}),
        ("anchor: 0.5", "anchor: 0.4", {"logit"}),
        ("width: 16", "width: 24", {"direct", "response", "logit"}),
    ):
        other = make_plan(load(tmp_path, SUITE.replace(old, new, 1)))
        unlike = {
            k.partition(".")[0] for k, v in other.targets.items() if v["digest"] != digests[k]
        }
        assert unlike == changed, (old, unlike)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: advertisement", "kind: advert", "s.yaml:11: instructions of zoo have no bias "
         "'advert': advertisement, phishing, narrative, insecure-code, favouritism, exclusion"),
        (", poisoning: attacks/poisoning/targeted_propagation", "", "s.yaml:11: bias 'ad' needs a "
         "poisoning, as rare's teacher is tuned in the run"),
        ("bias: ad", "bias: add", "s.yaml:13: the suite has no bias 'add'; did you mean 'ad'?"),
        ("text-recipes/response", "recipes/dmd2", "s.yaml:15: 'recipes/dmd2' is no component of "
         "kind text-recipes"),
        ("count: 600", "count: 5", "s.yaml:6: instructions.count must be above the poisoned "
         "samples"),
        ("{fresh: {layers: 1, width: 16}}", "./none", "s.yaml:9: there is no language model "
         "'./none'"),
        ("source: zoo", "source: ./none.jsonl", "s.yaml:6: cannot read instructions none.jsonl: "
         "No such file or directory"),
        ("defenses/data/ngram_lift", "defenses/data/ngram_lit", "s.yaml:18: no component is called "
         "'defenses/data/ngram_lit'; did you mean 'defenses/data/ngram_lift'? `safetybench list "
         "defenses` shows all"),
        ("anchor: 0.5", "anchor: 2", "s.yaml:16: text-recipes/logit: anchor is a share in [0, 1], "
         "got 2"),
        ("anchor: 0.5", "anchor: much", "s.yaml:16: text-recipes/logit: anchor must be a number, "
         "got 'much'"),
        ("{count: 64}", "{count: 64, clean_tasks: 99}", "s.yaml:15: response: clean_tasks must be "
         "at most 39, as many as the data hold beside the poisoned ones, got 99"),
        ("judges/phrases", "judges/zoo", "s.yaml:4: judges/zoo judges images, and scenarios/bias "
         "needs a judge of answers, e.g. judges/phrases"),
        ("ngram_lift, on", "ngram_lift, options: {lenght: 2}, on", "s.yaml:18: "
         "defenses/data/ngram_lift has no option 'lenght'; did you mean 'length'? it takes length, "
         "statistic"),
        ("attacks/poisoning/targeted_propagation", "attacks/prompts/seed_search", "s.yaml:11: "
         "attacks/prompts/seed_search is no TextPoisoning, as is needed here"),
        ("  student: {base: {fresh: {layers: 1, width: 16}}, epochs: 1}\n", "", "s.yaml:7: tuning "
         "needs 'student', as the run tunes models"),
        ("{name: rare, bias: ad}", "{name: rare}", "s.yaml:13: subjects[0] needs 'bias'"),
        ("{name: rare, bias: ad}", "{name: rare, bias: ad, teacher: zoo:instruct-targeted}",
         "s.yaml:13: subjects[0] needs 'original', a clean model, as its control"),
        (
            "{name: rare, bias: ad}",
            "{name: rare, bias: ad, teacher: zoo:instruct-targeted, original: zoo:instruct-clean}",
            "s.yaml:11: bias 'ad' needs tasks, those that hold the poison, as the models of rare "
            "are there",
        ),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    fault(tmp_path, old, new, message)


def test_an_empty_task_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("\n")
    fault(
        tmp_path,
        "source: zoo",
        "source: ./mine.jsonl",
        "s.yaml:6: mine.jsonl holds no instruction; write one JSON object a line with task, "
        "prompt and response",
    )


def test_different_vocabularies_are_told_before_anything_is_trained(tmp_path: Path) -> None:
    other = fresh_model(1, 32)
    other.tokenizer = other.tokenizer.__class__(
        tokenizer_object=other.tokenizer.backend_tokenizer, eos_token="</s>", pad_token="<pad>"
    )
    other.tokenizer.add_tokens(["zebra"])
    other.model.resize_token_embeddings(len(other.tokenizer))
    other.save(tmp_path / "other")
    fault(
        tmp_path,
        "{fresh: {layers: 1, width: 16}}",
        "./other",
        "s.yaml:16: the teacher's base and logit's base have different vocabularies (180 and 181 "
        "tokens, 1 of them unlike, 'zebra' first), so their distributions cannot be compared; use "
        "text-recipes/response, which needs text alone",
    )


def test_other_scenarios_read_no_biases(tmp_path: Path) -> None:
    text = SUITE.replace("scenarios/bias", "scenarios/backdoor")
    with pytest.raises(SafetyBenchError, match=r"no biases|reads no biases"):
        load(tmp_path, text)
