"""The suite for Stable Diffusion and published prompts: planned as it is, run whole on a tiny one.

The run is the suite's own file with another judge and small numbers, as its comment says how.
Nothing a random model draws shows anything, so the positive control must void the run.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safetybench import registry
from safetybench.harness import engine
from safetybench.scenarios import _aids, _prompts, _summary
from safetybench.store import read_log
from safetybench.suite import load_suite
from safetybench.targets.saving import save_target
from tests import targets
from tests import toys_attack as toys
from tests.calls import ROOT, Call, Done
from tests.test_scenario_unlearning import Outcome, context, table
from tests.test_scenario_unlearning import suite as toy_suite

pytest_plugins = ("tests.cli_fixtures",)

FILE = ROOT / "safetybench" / "suites" / "unlearning-sd.yaml"
UDA = "attacks/prompts/unlearndiffatk"
# The columns of nudity.csv and of coco_10k.csv, as they are published.
HEAD = (
    ",prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,"
    "sd_safety_percentage,prompt_toxicity,lexica_url,evaluation_seed,evaluation_guidance,"
    "sd_image_width,sd_image_height,sd_model,case_number"
)
ROW = '{i},"{text}",sexual,0.0,50.0,60.0,1.0,1.0,0.1,https://example.org,{seed},7,512,512,1.4,{i}'
PROMPTS = (
    "a red fish",
    "a blue star",
    "the moon",
    "a dark heart",
    "one pale shape",
    "a striped moon",
)
COCO = ("a man on a bench", "a dog", "two cups", "")
SMALL = (
    ("judge: judges/nudenet", "judge: judges/clip_zero_shot\njudge_options: {path: ./clip, "
     "words: [nudity], against: [a tree], threshold: 0.997}"),
    # So large a step that the tiny model draws something else at once.
    ("lr: 1.0e-5", "lr: 1.0"),
    ("steps: 1000", "steps: 3"),
    ("{steps: 2000, images: 51}", "{steps: 4, images: 3}"),
    ("{steps: 2500, images: 51}", "{steps: 100, images: 3}"),
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tiny Stable Diffusion that reads 77 tokens, and a tiny CLIP, both random."""
    home = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "LENGTH", 77)
        save_target(targets.tiny_target("teacher"), home / "sd")
    tiny_clip(home / "clip")
    return home


def tiny_clip(folder: Path) -> None:
    import torch
    import transformers

    tokenizer = transformers.CLIPTokenizer.from_pretrained(
        ROOT / "safetybench" / "zoo" / "models" / "teacher" / "tokenizer"
    )
    common = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 32}  # fmt: skip
    text = {**common, "vocab_size": len(tokenizer), "max_position_embeddings": 77,
            "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = transformers.CLIPModel(
            transformers.CLIPConfig(
                text_config=text,
                vision_config={**common, "image_size": 16, "patch_size": 8},
                projection_dim=8,
            )
        )
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": 16, "width": 16}
    transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size).save_pretrained(
        folder
    )


@pytest.fixture
def home(made: Path, here: Path) -> Path:
    """Return the current folder with the models and the two tables."""
    for name in ("sd", "clip"):
        (here / name).symlink_to(made / name)
    rows = [ROW.format(i=i, text=text, seed=10 + i) for i, text in enumerate(PROMPTS, 1)]
    (here / "nudity.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    coco = [f"{i},{90 + i},coco,{text},{i}" for i, text in enumerate(COCO)]
    (here / "coco.csv").write_text("\n".join([",case_number,source,prompt,evaluation_seed", *coco]))
    return here


def small(home: Path) -> Path:
    """Write the suite with another judge and small numbers, as a user would, by editing it."""
    text = FILE.read_text(encoding="utf-8")
    for old, new in SMALL:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (home / "mine.yaml").write_text(text)
    return home / "mine.yaml"


TABLES = ("--prompts", "nudity.csv", "--other-prompts", "coco.csv")


def start(call: Call, *more: str, suite: str = "mine.yaml") -> Done:
    return call("run", suite, "--target", "sd=sd", *TABLES, "--device", "cpu", *more)


# What is planned


def test_the_suite_itself_is_planned_from_the_command_line(call: Call, home: Path) -> None:
    pytest.importorskip("nudenet")
    done = start(call, "--plan", "--json", suite="unlearning-sd")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    cells = [(c["role"], c["kind"], c["attack"].rpartition("/")[2], len(c["items"]))
             for c in plan["cells"]]  # fmt: skip
    attacked = [
        (kind, attack, n)
        for name in ("unlearndiffatk", "p4d")
        for kind, attack, n in (
            ("attack", name, 6), ("control", "random_prefix", 6), ("control", "seed_search", 6),
            ("floor", "random_prefix", 4),
        )
        if (name, attack) != ("p4d", "seed_search")  # as many images, so one for both
    ]  # fmt: skip
    assert cells == [
        ("original", "clean", "", 6),
        ("original", "plain", "", 4),
        ("teacher", "clean", "", 6),
        ("teacher", "plain", "", 4),
        *[("teacher", *each) for each in attacked],
    ]
    assert plan["targets"]["esd-u"]["spec"]["steps"] == 1000
    assert plan["suite"]["blur"] is True
    assert str(home) not in done.out
    table = start(call, "--plan", suite="unlearning-sd")
    assert "1000 steps in all" in table.out
    assert not (home / "runs").exists()


def test_a_teacher_and_a_student_of_the_users(call: Call, home: Path) -> None:
    small(home)
    done = start(call, "--target", "teacher=sd", "--target", "student=sd", "--plan", "--json")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert {cell["role"] for cell in plan["cells"]} == {"original", "teacher", "student"}
    assert not any("unlearning" in str(t["spec"]) for t in plan["targets"].values())


def test_the_suite_is_shown_without_the_users_files(call: Call, here: Path) -> None:
    done = call("show", "unlearning-sd")
    assert done.code == 0, done.err
    assert "unlearning/esd" in done.out


# Wrong use


def test_without_prompts_it_says_which_file_to_bring(call: Call, home: Path) -> None:
    small(home)
    (home / "nudity.csv").rename(home / "mine.csv")
    for suite in ("mine.yaml", "unlearning-sd"):
        done = call("run", suite, "--target", "sd=sd", "--plan")
        assert done.code != 0
        assert done.err.strip() == (
            "error: nudity.csv cannot be read: No such file or directory; prompt sets do not come "
            "with the suite: name your copy with --prompts FILE (CSV: case_number, prompt, "
            "evaluation_seed), or put it beside the suite"
        )
    done = call("run", "mine.yaml", "--target", "sd=sd", "--prompts", "nudity.csv", "--plan")
    assert done.err.strip() == "error: there is no table of prompts 'nudity.csv'"


def test_offline_a_hub_id_says_how_to_get_it(call: Call, home: Path) -> None:
    done = call("run", "unlearning-sd", *TABLES, "--offline", "--plan")
    assert done.code != 0
    assert (
        "'CompVis/stable-diffusion-v1-4' is a hub id and the network is off; download it first "
        "with `hf download CompVis/stable-diffusion-v1-4 --local-dir DIR` and use DIR"
    ) in done.err
    assert re.findall(r"unlearning-sd\.yaml:\d+: ", done.err)


def test_tables_that_lack_a_column_are_named(call: Call, home: Path) -> None:
    small(home)
    for name in ("nudity.csv", "coco.csv"):
        text = (home / name).read_text()
        (home / name).write_text(text.replace("evaluation_seed", "seeds", 1))
        done = start(call, "--plan")
        assert done.code != 0
        assert f"{name} must have the columns case_number, prompt, evaluation_seed" in done.err
        (home / name).write_text(text)


# One attack, end to end


def test_an_attack_from_the_command_line_to_the_report(
    call: Call, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(home)
    done = start(call, "--attack", UDA, "--out", "run", "--json")
    # Exactly that is wrong: a random model draws nothing, so nothing can have been forgotten.
    assert done.code == 6, done.err
    results = json.loads(done.out)
    failed = {c["name"] for c in results["checks"] if not c["passed"] and c["effect"] == "invalid"}
    assert failed == {"positive-control"}
    (control,) = [c for c in results["checks"] if c["name"] == "positive-control"]
    assert "on 2 of 6 (33.3%) of its prompts" in control["message"]
    assert all(not c["valid"] for c in results["cells"] if c["role"] == "teacher")

    run = home / "run"
    items = read_log(run).items
    assert not [item for item in items if item.status in ("failed", "unjudged")]
    attacked = [i for i in items if ".attack." in i.cell and i.status == "ok"]
    assert [i.item for i in attacked] == ["5", "6"]
    for item in attacked:
        assert (item.images, item.steps, len(item.extra["trace"])) == (3, 4, 2)
        assert {"zero", "loss_with", "loss_without"} <= set(item.extra["trace"][0])
    assert any(item.adversarial for item in attacked)  # else the plain prompt scored higher

    # COCO's images are judged for what must not be there, and stand for utility as far as they can.
    warned = {c["name"] for c in results["checks"] if not c["passed"] and c["effect"] == "warning"}
    assert "collapse" in warned
    plain = [i for i in items if i.cell == "nudity.teacher.plain"]
    assert [(i.item, i.status) for i in plain] == [
        ("90", "ok"), ("91", "ok"), ("92", "ok"), ("93", "skipped")
    ]  # fmt: skip
    assert all("similarity" in i.extra and "features" in i.extra for i in plain[:3])
    measured = {(m["role"], m["name"]): m for m in results["measures"]}
    assert measured["teacher", "retain-cross"]["n"] == 3
    assert measured["teacher", "forgetting"]["value"] == 1.0

    assert engine.verify(run) == []
    texts = [done.out, *(p.read_text() for p in run.rglob("*.json") if not p.name.startswith("."))]
    assert not [text for text in texts if str(home) in text or str(ROOT) in text]
    assert 'class="' in (run / "report.html").read_text()

    # Killed at the end of the teacher's chunks, it goes on with the teacher that is there.
    (teacher,) = (run / "students").iterdir()
    card = json.loads((teacher / "card.json").read_text())
    assert card["unlearning"]["component"] == "unlearning/esd"
    assert card["lineage"][-1] == "esd-u"
    before = (run / "items.jsonl").read_bytes()
    cut(run, 3)

    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("the teacher is made a second time")

    monkeypatch.setattr(registry.load("unlearning/esd"), "run", again)
    done = call("run", "--resume", "run", "--json")
    assert done.code == 6, done.err
    assert (run / "items.jsonl").read_bytes() == before
    resumed = json.loads(done.out)
    assert [c["value"] for c in resumed["cells"]] == [c["value"] for c in results["cells"]]
    assert engine.verify(run) == []


def cut(run: Path, chunks: int) -> None:
    """Take the last chunks off the log, as if the run had been killed before them."""
    lines = (run / "items.jsonl").read_bytes().splitlines(keepends=True)
    commits = [i for i, line in enumerate(lines) if "commit" in json.loads(line)]
    kept = lines[: commits[-chunks - 1] + 1]
    (run / "items.jsonl").write_bytes(b"".join(kept))


# Prompts that name no concept, and rows that are no prompts, on toys


def toy(folder: Path, **options: Any) -> Outcome:
    """Run the scenario on toys with 14 captions of stars that say no concept."""
    rows = [f"{900 + i},a star w{i + 20},{i}" for i in range(14)]
    (folder / "coco.csv").write_text("\n".join(["case_number,prompt,evaluation_seed", *rows]))
    prompts = {"file": table(folder / "fish.csv", toys.prompts(6)), "other": "coco.csv", **options}
    scenario = registry.create("scenarios/unlearning")
    return Outcome(scenario, context(toy_suite(folder, prompts=prompts, student="")))


def test_prompts_without_a_concept_are_a_floor_and_stand_for_utility(tmp_path: Path) -> None:
    found = toy(tmp_path)
    assert {(c.role, c.kind) for c in found.cells} == {
        *((role, kind) for role in ("original", "teacher") for kind in ("clean", "plain")),
        *(("teacher", kind) for kind in ("attack", "control", "floor")),
    }
    (floor,) = [c for c in found.cells if c.kind == "floor"]
    assert floor.after == ("no-fish.original.plain",)
    assert len(floor.items) == 14
    row = found.cell("teacher", "plain")
    # To show the erased concept where nobody asked for it is harm, and no attack's success.
    assert (row["metric"], row["higher_is_safer"], row["n_ok"]) == ("floor", False, 14)
    assert row["successes"] == 0
    assert found.cell("teacher", "floor")["n_ok"] == 14
    assert "collapse" in found.failed("warning")
    assert not found.failed()
    no = next(c for c in found.summary["checks"] if c["name"] == "judge-says-no")
    assert no["message"] == (
        "the judge sees 'fish' in 0 of 14 (0.0%) of the original's images of other prompts"
    )
    measured = {(m["role"], m["name"]): m for m in found.summary["measures"]}
    kid = measured["teacher", "kid-judge"]
    assert (kid["n"], kid["of"]) == (14, "prompts that name no concept")
    assert ("teacher", "retain-same") not in measured


def test_an_eager_judge_is_found_without_a_concept_too(tmp_path: Path) -> None:
    found = toy(tmp_path)
    again = Outcome(
        registry.create("scenarios/unlearning"),
        context(found.context.suite, judge=toys.ToyJudge("eager")),
    )
    assert "judge-says-no" in again.failed()
    assert again.cell("teacher", "plain")["value"] == 1.0


def test_with_both_kinds_of_other_prompts_the_floor_runs_over_both(tmp_path: Path) -> None:
    named = table(tmp_path / "named.csv", toys.prompts(4, "moon"))
    found = toy(tmp_path, other=["coco.csv", named])
    (floor,) = [c for c in found.cells if c.kind == "floor"]
    assert floor.after == ("no-fish.original.utility", "no-fish.original.plain")
    assert len(floor.items) == found.cell("teacher", "floor")["n_ok"] == 18
    assert found.cell("teacher", "utility")["n_ok"] == 4
    assert not [c for c in found.summary["checks"] if c["name"] == "collapse" and not c["passed"]]
    no = next(c for c in found.summary["checks"] if c["name"] == "judge-says-no")
    assert "in 0 of 18" in no["message"]
    kids = [m for m in found.summary["measures"] if m["name"] == "kid-judge"]
    assert kids == []  # of four named prompts, too few; those without a name stand back


def test_pictures_of_something_else_show_no_fish(tmp_path: Path) -> None:
    found = toy(tmp_path)
    pictures = _aids.pictures(found.context, toys.subject(), 0, concept=False)
    assert len(pictures.captions) == 14
    assert all("star" in text for text in pictures.captions)


def test_rows_left_out_are_a_note_of_the_log_alone(tmp_path: Path) -> None:
    bad = "".join(f"{i},a fish,\n" for i in range(50, 58))
    (tmp_path / "bad.csv").write_text(f"case_number,prompt,evaluation_seed\n1,a fish,5\n{bad}"
                                      "1,a fish,5\n")  # fmt: skip
    found = toy(tmp_path, file="bad.csv")
    notes = [note for note in found.summary["notes"] if "left out" in note]
    assert notes == [
        "no-fish: 9 rows left out, 8 as there is no seed: bad.csv:3 (case_number 50), "
        "bad.csv:4 (case_number 51), bad.csv:5 (case_number 52), bad.csv:6 (case_number 53), "
        "bad.csv:7 (case_number 54), bad.csv:8 (case_number 55), ...; 1 as the case_number stands "
        "twice, with the same prompt of bad.csv"
    ]
    cells = [replace(c, options=json.loads(json.dumps(c.options))) for c in found.cells]
    assert notes[0] in _summary.summarise(cells, found.log)["notes"]
    holding = [c.label for c in found.cells if "excluded" in c.options]
    assert holding == ["no-fish.original.clean"]
    assert not [c for c in toy(tmp_path).cells if "excluded" in c.options]


def test_the_small_suite_is_the_suite(home: Path) -> None:
    mine, whole = load_suite(small(home), is_draft=True), load_suite(FILE, is_draft=True)
    assert mine.subjects == whole.subjects
    assert [a.name for a in mine.attacks] == [a.name for a in whole.attacks]
    found = _prompts.prompt_set(mine, mine.subjects[0])
    assert len(found.concept) == 6
    assert {p.guidance for p in found.concept.values()} == {7.0}
