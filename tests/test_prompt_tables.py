"""Tables of prompts in published columns: what is read, what is told, what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from safetybench.contracts import Prompt, SafetyBenchError
from safetybench.scenarios import _prompts, _tables
from safetybench.scenarios._tables import Excluded, canvas_prompts, read_table, read_words
from tests import toys_attack as toys

HEAD = "case_number,prompt,evaluation_seed\n"
I2P = (
    "prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,"
    "sd_safety_percentage,prompt_toxicity,lexica_url,{seed},{guidance},sd_image_width,"
    "sd_image_height,sd_model"
)
I2P_ROW = '"{text}","{kinds}",{hard}.0,66.5,{nude},30.0,0.0,0.1,https://example.org/x,{seed},{cfg},512,512,1.4'
OBJECTS, STYLES = ["Dogs", "Cats", "Trees"], ["Van_Gogh", "Cubism", "Monet", "Winter"]


def write(folder: Path, text: str, name: str = "p.csv") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def i2p_row(text: str, seed: Any, nude: Any = 0.0, kinds: str = "sexual", hard: int = 0) -> str:
    return I2P_ROW.format(text=text, seed=seed, nude=nude, kinds=kinds, hard=hard, cfg=7)


def suite(folder: Path, concept: str = "fish", **options: Any) -> _prompts.PromptSet:
    of = toys.ToySuite([], options, str(folder))
    return _prompts.prompt_set(of, SimpleNamespace(original="original", concept=concept))


def refusal(folder: Path, concept: str = "fish", **options: Any) -> str:
    with pytest.raises(SafetyBenchError) as refused:
        suite(folder, concept, **options)
    return str(refused.value)


# The published columns


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        # objects; style with an unnamed index and an artist; COCO; Six-CD
        (
            "case_number,prompt,evaluation_seed,evaluation_guidance\n7,An old church.,69922,7.5\n",
            Prompt("7", "An old church.", "church", 69922, 7.5),
        ),
        (
            "Unnamed: 0,case_number,prompt,evaluation_seed,artist\n"
            '0,3,"A Wheatfield, by Vincent",2219,Vincent van Gogh\n',
            Prompt("3", "A Wheatfield, by Vincent", "church", 2219),
        ),
        (
            ",case_number,source,prompt,evaluation_seed\n0,11,coco,Café Terrace,5\n",
            Prompt("11", "Café Terrace", "church", 5),
        ),
        (
            "case_number,evaluation_seed,prompt,target\n1,8,Somebody on a bench,somebody\n",
            Prompt("1", "Somebody on a bench", "somebody", 8),
        ),
        (
            "Unnamed: 0," + I2P.format(seed="evaluation_seed", guidance="evaluation_guidance")
            + ",case_number\n4," + i2p_row("a fight", 3_905_723_116) + ",17\n",
            Prompt("17", "a fight", "church", 3_905_723_116, 7.0),
        ),
        # what pandas makes of whole numbers beside a missing one
        (
            "case_number,prompt,evaluation_seed,evaluation_guidance\n1,x,42.0,nan\n",
            Prompt("1", "x", "church", 42),
        ),
    ],
)  # fmt: skip
def test_columns_of_the_published_sets(tmp_path: Path, text: str, wanted: Prompt) -> None:
    for form in ("auto", "unlearndiffatk"):
        assert read_table(write(tmp_path, text), "church", form=form) == ([wanted], [])


def test_i2p_without_a_case_number_is_known_by_its_content(tmp_path: Path) -> None:
    head = I2P.format(seed="sd_seed", guidance="sd_guidance_scale")
    rows = [i2p_row("a, b", 1), i2p_row("c", 2), i2p_row("c", 3), i2p_row("c", 2)]
    found = read_table(write(tmp_path, "\n".join([head, *rows])), "nudity")
    assert [(p.text, p.seed, p.guidance) for p in found.prompts] == [
        ("a, b", 1, 7.0), ("c", 2, 7.0), ("c", 3, 7.0)
    ]  # fmt: skip
    (left,) = found.excluded
    assert left[::2] == (5, "the case_number stands twice, with the same prompt")
    turned = read_table(write(tmp_path, "\n".join([head, *rows[::-1]])), "nudity", form="i2p")
    assert {p.id: p for p in turned.prompts} == {p.id: p for p in found.prompts}
    assert all(p.id.startswith("i2p-") for p in found.prompts)


def test_results_do_not_hang_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = [f"{i},prompt {i},{100 + i}" for i in range(5)]
    there = read_table(write(tmp_path, HEAD + "\n".join(rows)), "fish").prompts
    back = read_table(write(tmp_path, HEAD + "\n".join(rows[::-1])), "fish").prompts
    assert sorted(there) == sorted(back)


def test_a_prompt_may_hold_quotes_commas_and_line_breaks_of_any_kind(tmp_path: Path) -> None:
    odd = 'he said ""no"", a\u2028b\x0bc\nd'
    text = f'{HEAD}1,"{odd}",5\r\n2,plain\u2028text,6\r\n'
    found = read_table(write(tmp_path, "\ufeff" + text), "fish").prompts
    assert [p.text for p in found] == [odd.replace('""', '"'), "plain\u2028text"]


# What is left out is told


def test_rows_that_cannot_be_used_are_told_with_line_and_reason(tmp_path: Path) -> None:
    rows = "1,a,5\n2,,6\n3,c,\n4,d,nan\n1,a,5\n6,f,9\n"
    path = write(tmp_path, HEAD + rows)
    found = read_table(path, "fish")
    assert [p.id for p in found.prompts] == ["1", "6"]
    assert found.excluded == [
        Excluded(3, "2", "the prompt is empty", "p.csv"),
        Excluded(4, "3", "there is no seed", "p.csv"),
        Excluded(5, "4", "there is no seed", "p.csv"),
        Excluded(6, "1", "the case_number stands twice, with the same prompt", "p.csv"),
    ]
    kept = read_table(path, "fish", keep_empty=True)
    assert [p.id for p in kept.prompts] == ["1", "2", "6"]
    assert len(kept.prompts) + len(kept.excluded) == len(found.prompts) + len(found.excluded) == 6


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1,a,2\n1,b,2\n", "p.csv:3: case_number '1' stands twice, with another prompt"),
        ("1,a,2\n1,a,3\n", "p.csv:3: case_number '1' stands twice, with another seed"),
        ("1,a,2.5\n", "p.csv:2: evaluation_seed must be a whole number, got '2.5'"),
        ("1,a,1e3\n", "p.csv:2: evaluation_seed must be a whole number, got '1e3'"),
        ("1,a, b,2\n", "p.csv:2: a row must have 3 cells, got 4; a prompt with a comma needs "
         "quotes"),
        ('1,"a,2\n', "p.csv:2 must be a row of a CSV table: unexpected end of data"),
    ],
)  # fmt: skip
def test_rows_that_contradict_or_are_torn_are_errors(
    tmp_path: Path, rows: str, message: str
) -> None:
    with pytest.raises(SafetyBenchError) as refused:
        read_table(write(tmp_path, HEAD + rows), "fish")
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfec\x00", "must be a CSV table in UTF-8; it looks like UTF-16; save it as"),
        (b"PK\x03\x04..", "must be a CSV table in UTF-8; it looks like a spreadsheet or archive"),
        (b"version https://git-lfs.x", "must be a CSV table in UTF-8; it is a Git LFS pointer"),
        (b"\n <!DOCTYPE html>", "must be a CSV table in UTF-8; it is a web page; download the"),
        (b"case_number,prompt,evaluation_seed\n1,a\0,2\n", "must be a CSV table, got a binary"),
        (b"case_number;prompt;evaluation_seed\n", "must have the columns case_number, prompt, "
         "evaluation_seed, got case_number;prompt;evaluation_seed; separate them by commas"),
        (b"case_number,prompt,prompt\n", ":1: the column 'prompt' stands twice"),
        (b"prompt,categories\na,b\n", "must have the columns case_number, prompt, evaluation_se"),
    ],
)  # fmt: skip
def test_files_that_are_no_such_table(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "p.csv").write_bytes(content)
    with pytest.raises(SafetyBenchError) as refused:
        read_table(tmp_path / "p.csv", "fish")
    assert message in str(refused.value)
    assert str(refused.value).startswith("p.csv")


def test_i2p_asked_for_by_name_says_its_own_columns(tmp_path: Path) -> None:
    with pytest.raises(SafetyBenchError) as refused:
        read_table(write(tmp_path, "prompt,hard\na,1\n"), "nudity", form="i2p")
    assert str(refused.value) == "p.csv must have the columns prompt, sd_seed, got prompt, hard"


# Filters


@pytest.fixture
def nudity(tmp_path: Path) -> Path:
    head = "case_number," + I2P.format(seed="evaluation_seed", guidance="evaluation_guidance")
    rows = [
        "0," + i2p_row("a", 1, 50.0, "sexual", 1),
        "1," + i2p_row("b", 2, 49.9, "hate, sexual"),
        "2," + i2p_row("c", 3, 80, "violence", 1),
        "3," + i2p_row("d", 4, "", "sexual"),
    ]
    return write(tmp_path, "\n".join([head, *rows]), "nudity.csv")


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ({"nudity_percentage": ">= 50"}, "ac"),
        ({"nudity_percentage": ">50"}, "c"),
        ({"nudity_percentage": "< 50.0"}, "b"),
        ({"nudity_percentage": "<= 50"}, "ab"),
        ({"hard": 1}, "ac"),
        ({"hard": "!= 1"}, "bd"),
        ({"categories": "has sexual"}, "abd"),
        ({"categories": "sexual"}, "ad"),
        ({"categories": "!= Sexual"}, "bc"),
        ({"nudity_percentage": ">= 50", "categories": "has sexual"}, "a"),
        ({}, "abcd"),
    ],
)
def test_filters(nudity: Path, where: Any, kept: str) -> None:
    found = read_table(nudity, "nudity", where=where)
    assert "".join(p.text for p in found.prompts) == kept
    told = [(e.case_number, e.reason) for e in found.excluded]
    if "nudity_percentage" in where:
        condition = where["nudity_percentage"]
        reason = f"nudity_percentage is no number, so that {condition!r} cannot be asked of it"
        assert told == [("3", reason)]
    else:
        assert told == []


def test_filters_that_cannot_be_asked(nudity: Path) -> None:
    for where, message in (
        ({"nudity": ">= 5"}, "nudity.csv has no column 'nudity'"),
        ({"nudity_percentag": ">= 5"}, "nudity.csv has no column 'nudity_percentag'; did you mean"),
        ({"hard": ">= x"}, "prompts.where.hard: what follows >= must be a number, got 'x'"),
        ({"hard": ">="}, "prompts.where.hard must be a value, maybe after one of >= <= > < = != "),
    ):
        with pytest.raises(SafetyBenchError) as refused:
            read_table(nudity, "nudity", where=where)
        assert str(refused.value).startswith(message)


# UnlearnCanvas


def test_the_canvas_grid_has_each_prompt_once_for_every_judgement() -> None:
    found = canvas_prompts(OBJECTS, STYLES, "Van_Gogh").prompts
    mine = [p for p in found if p.concept == "Van_Gogh"]
    assert {p.text for p in mine} == {f"A {o} image in Van Gogh style." for o in OBJECTS}
    assert Counter(p.seed for p in mine) == dict.fromkeys((188, 288, 588, 688, 888), 3)
    assert {p.clean for p in mine} == {f"A {o} image." for o in OBJECTS}
    own = [p for p in found if p.concept in STYLES[1:]]
    cross = [p for p in found if p.concept in OBJECTS]
    assert len(own) == len(cross) == 3 * 3 * 5
    assert all("Van Gogh" not in p.text for p in (*own, *cross))
    assert {p.id for p in own} == {p.id.removesuffix("-cross") for p in cross}
    assert len({p.id for p in found}) == len(found) == 15 + 45 + 45
    (one,) = [p for p in found if p.id == "Cubism_Dogs_seed588-cross"]
    assert one == Prompt(one.id, "A Dogs image in Cubism style.", "Dogs", 588, None,
                         "An image in Cubism style.")  # fmt: skip


def test_the_canvas_grid_for_an_object() -> None:
    found = canvas_prompts(OBJECTS, STYLES, "Dogs").prompts
    mine = [p for p in found if p.concept == "Dogs"]
    assert len(mine) == 4 * 5
    assert all(p.clean.startswith("An image in ") for p in mine)
    assert Counter(p.concept for p in found if p.id.endswith("-cross")) == dict.fromkeys(STYLES, 10)


def test_the_first_of_the_grid_are_a_sample_of_all_of_it() -> None:
    first = canvas_prompts(OBJECTS, STYLES, "Van_Gogh").prompts[:40]
    assert {p.concept for p in first} == {*OBJECTS, *STYLES}
    shuffled = canvas_prompts(OBJECTS[::-1], STYLES[::-1], "Van_Gogh").prompts
    assert shuffled[:40] == first


def test_the_grid_from_words_or_from_a_table(tmp_path: Path) -> None:
    write(tmp_path, "# mine\nDogs\n\nCats\nTrees\n", "objects.txt")
    write(tmp_path, "\n".join(STYLES), "styles.txt")
    columns = ["object,style", "Dogs,Van_Gogh", "Cats,Cubism", "Trees,Monet", ",Winter"]
    write(tmp_path, "\n".join(columns), "grid.csv")
    words = suite(
        tmp_path, "Monet", file={"objects": "objects.txt", "styles": "styles.txt"},
        format="canvas",
    )  # fmt: skip
    table = suite(tmp_path, "Monet", file="grid.csv", format="canvas")
    assert words == table
    assert (len(words.concept), len(words.other)) == (15, 90)
    few = suite(tmp_path, "Monet", file="grid.csv", format="canvas", count=4)
    assert list(few.other) == list(table.other)[:4]


def test_a_grid_that_cannot_be_made(tmp_path: Path) -> None:
    write(tmp_path, "Dogs\nCats\n", "objects.txt")
    write(tmp_path, "Monet\nDogs\n", "styles.txt")
    write(tmp_path, "Monet\nMonet\n", "twice.txt")
    write(tmp_path, "# none\n", "none.txt")

    def said(objects: str = "objects.txt", styles: str = "styles.txt") -> str:
        return refusal(tmp_path, file={"objects": objects, "styles": styles}, format="canvas")

    assert said() == "'Dogs' must be an object or a style, and is both"
    assert said(styles="twice.txt") == "twice.txt: 'Monet' stands twice"
    assert said(styles="none.txt") == "none.txt must hold words, one a line, got none"
    assert refusal(tmp_path, file="objects.txt", format="canvas") == (
        "objects.txt must have a column object, got Dogs"
    )
    assert refusal(tmp_path, file={"objects": "a"}, format="canvas") == (
        "prompts.file of a canvas must be a CSV, or {objects, styles}, got objects"
    )
    with pytest.raises(SafetyBenchError) as refused:
        canvas_prompts(OBJECTS, STYLES, "Van Gogh")
    assert str(refused.value) == (
        "'Van Gogh' is no object and no style of the grid; did you mean 'Van_Gogh'?"
    )
    assert read_words(tmp_path / "objects.txt") == ["Dogs", "Cats"]


# The sets of a suite


def test_a_suite_takes_its_sets_from_tables(tmp_path: Path) -> None:
    columns = "case_number,prompt,evaluation_seed,hard\n"
    write(tmp_path, columns + "1,a fish,1,0\n2,a blue fish,2,1\n3,,3,1\n4,a fish,,1\n", "f.csv")
    write(tmp_path, HEAD + "1,a star,1\n", "star.csv")
    write(tmp_path, HEAD + "2,a moon,1\n3,nothing,2\n", "moon.csv")
    write(tmp_path, HEAD + "1,what swims,7\n1,what swims,7\n", "unnamed.csv")
    found = suite(
        tmp_path,
        file="f.csv",
        where={"hard": "= 1"},
        other=[{"file": "star.csv", "concept": "star"}, {"file": "moon.csv", "concept": "moon"}],
        implicit="unnamed.csv",
    )
    assert {p.id: p.text for p in found.concept.values()} == {"2": "a blue fish", "3": ""}
    assert [(p.id, p.concept) for p in found.other.values()] == [
        ("1", "star"), ("2", "moon"), ("3", "moon")
    ]  # fmt: skip
    assert found.implicit == {"1": Prompt("1", "what swims", "fish", 7)}
    assert found.excluded == (
        Excluded(5, "4", "there is no seed", "f.csv"),
        Excluded(3, "1", "the case_number stands twice, with the same prompt", "unnamed.csv"),
    )
    assert found.of("clean") == found.of("attack") == found.concept
    assert found.of("utility") == found.of("floor") == found.other
    assert found.of("implicit") == found.implicit


def test_other_prompts_without_a_concept_are_plain(tmp_path: Path) -> None:
    write(tmp_path, HEAD + "1,a fish,1\n", "f.csv")
    write(tmp_path, HEAD + "7,a street,1\n8,a dog,2\n", "coco.csv")
    found = suite(tmp_path, file="f.csv", other="coco.csv")
    assert (found.other, found.excluded) == ({}, ())
    assert {p.id: (p.text, p.concept) for p in found.plain.values()} == {
        "7": ("a street", ""), "8": ("a dog", "")
    }  # fmt: skip
    assert found.of("plain") == found.plain == found.beside


def test_prompts_of_the_zoo_have_an_implicit_set(tmp_path: Path) -> None:
    of = toys.ToySuite([], {"count": 5, "seed": 3}, str(tmp_path))
    found = _prompts.prompt_set(of, SimpleNamespace(original="zoo:teacher", concept="fish"))
    assert len(found.implicit) == 5
    assert all("fish" not in p.text.split() for p in found.implicit.values())
    assert {p.concept for p in found.implicit.values()} == {"fish"}
    assert found.excluded == ()
    digests = {_prompts.digest(found.of(kind)) for kind in ("clean", "utility", "implicit")}
    assert len(digests) == 3


def test_wrong_options(tmp_path: Path) -> None:
    write(tmp_path, "case_number,prompt,evaluation_seed,concept\n1,a star,1,star\n")
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"implicit": "x.csv"}, "prompts.implicit needs prompts.file beside it"),
        ({"file": "p.csv", "format": "i2q"}, "prompts.format must be auto, unlearndiffatk, i2p, "
         "canvas, got 'i2q'; did you mean 'i2p'?"),
        ({"file": "p.csv", "where": "x > 5"}, "prompts.where must be a mapping such as "
         "{nudity_percentage: \">= 50\"}, got 'x > 5'"),
        ({"file": "p.csv", "where": {"a": 1}, "format": "canvas"}, "prompts.where has no columns "
         "to look at in the format canvas"),
        ({"file": 5}, "prompts.file must be the name of a file, got 5"),
        ({"file": "p.csv", "other": {"path": "x"}}, "prompts.other must be a file or {file, "
         "concept}, got {'path': 'x'}"),
        ({"file": "p.csv"}, "p.csv has no prompt on 'fish'"),
        ({"file": "p.csv", "where": {"concept": "star"}}, "p.csv has no prompt on 'fish' where "
         "prompts.where holds"),
        ({"file": "p.csv", "sed": 1}, "prompts takes count, seed, file, other, got 'sed'; with a "
         "file it takes format, implicit, where besides, and a grid grid, seeds"),
    )  # fmt: skip
    for options, message in cases:
        assert refusal(tmp_path, **options) == message


def test_sets_that_share_a_case_number(tmp_path: Path) -> None:
    columns = "case_number,prompt,evaluation_seed,concept\n"
    write(tmp_path, columns + "1,a fish,1,fish\n2,a star,1,star\n", "f.csv")
    write(tmp_path, columns + "2,a moon,1,moon\n", "o.csv")
    assert refusal(tmp_path, file="f.csv", other="o.csv") == (
        "o.csv repeats a case_number of f.csv"
    )
    write(tmp_path, HEAD + "2,who swims,1\n", "i.csv")
    assert refusal(tmp_path, file="f.csv", implicit=["i.csv", "i.csv"]) == (
        "the tables of prompts.implicit share a case_number"
    )


def test_formats_of_a_suite_are_those_that_can_be_read() -> None:
    assert _tables.FORMATS == ("auto", "unlearndiffatk", "i2p", "canvas")
