"""Splits: exact shares, each class alike, the same on every machine; and the users' lists in all their forms."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satmip_data.sources.splits import SplitFileError, deal, find_split, folder_split, parse_shares, read_split_file

SHARES = st.dictionaries(st.sampled_from(["train", "val", "test"]), st.integers(1, 9), min_size=1)


def test_paper_sizes() -> None:
    """Table S1: EuroSAT's classes of 2000, 2500 and 3000, RESISC45's of 700, OPTIMAL-31's of 60, UC Merced's of 100."""

    def sizes(classes: list[int], shares: str) -> dict[str, int]:
        names = {f"{i}/{j}": str(i) for i, count in enumerate(classes) for j in range(count)}
        dealt = deal(names, parse_shares(shares))
        for i, count in enumerate(classes):
            for split, share in parse_shares(shares).items():
                assert sum(dealt[name] == split for name in names if names[name] == str(i)) == round(count * share)
        return dict(Counter(dealt.values()))

    eurosat = [3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000]
    assert sizes(eurosat, "train=60,val=20,test=20") == {"train": 16_200, "val": 5_400, "test": 5_400}
    assert sizes([700] * 45, "train=60,val=20,test=20") == {"train": 18_900, "val": 6_300, "test": 6_300}
    assert sizes([60] * 31, "train=50,test=50") == {"train": 930, "test": 930}
    assert sizes([100] * 21, "train=60,test=40") == {"train": 1_260, "test": 840}


@given(st.lists(st.integers(0, 3), max_size=60), SHARES, st.integers(0, 5))
def test_counts_are_exact_to_within_one(strata: list[int], whole: dict[str, int], seed: int) -> None:
    names = {f"n{i}": str(stratum) for i, stratum in enumerate(strata)}
    shares = parse_shares(",".join(f"{name}={share}" for name, share in whole.items()))
    dealt = deal(names, shares, seed)
    assert dealt.keys() == names.keys()
    for split, share in shares.items():
        assert abs(list(dealt.values()).count(split) - share * len(names)) < 1 + 1e-9


def test_a_deal_depends_on_names_and_seed_alone() -> None:
    names = {f"n{i}": "a" for i in range(50)}
    shares = parse_shares("train=50,val=50")
    assert deal(dict(reversed(names.items())), shares, 3) == deal(names, shares, 3) != deal(names, shares, 4)
    # Written down: a change of the rule would move samples between the splits of everyone's shards.
    assert [name for name, split in deal({f"n{i}": "a" for i in range(10)}, shares).items() if split == "val"] == PINNED


PINNED = ["n9", "n4", "n2", "n3", "n0"]


@pytest.mark.parametrize("text", ["", "train", "train=", "train=0", "train=-1", "train=nan", "Train=1", "train=1,train=2"])
def test_shares_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="--shares"):
        parse_shares(text)


def test_shares_may_be_fractions() -> None:
    assert parse_shares("train=0.1, val=0.3") == pytest.approx({"train": 0.25, "val": 0.75})


def test_folders_that_name_a_split() -> None:
    assert folder_split("test/set/Train/a/1.jpg") == "train"  # the innermost
    assert folder_split("set/Training/a/1.jpg") == "train"
    assert folder_split("validation/a/1.jpg") == "val"
    assert folder_split("set/a/test.jpg") is None


def test_every_form_of_list_says_the_same(tmp_path: Path) -> None:
    expected = {"a_1.jpg": "train", "b 2.jpg": "train", "c_3.jpg": "test"}
    (tmp_path / "s.json").write_text(json.dumps({"training": ["a_1.jpg", "b 2.jpg"], " Test ": ["c_3.jpg"]}))
    (tmp_path / "s.csv").write_text("split,file\ntrain,a_1.jpg\ntrain,b 2.jpg\ntest,c_3.jpg\n", encoding="utf-8-sig")
    (tmp_path / "s.txt").write_text("a_1.jpg train\nb 2.jpg\ttrain\n\nc_3.jpg,test\n")
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "eurosat-train.txt").write_text("a_1.jpg\n\nb 2.jpg,s1\n", encoding="utf-8-sig")
    (folder / "eurosat-test.txt").write_text("c_3.jpg\n")
    (folder / "README.md").write_text("no list")
    for name in ("s.json", "s.csv", "s.txt", "lists"):
        assert read_split_file(str(tmp_path / name)) == expected, name


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.json", "[1]", '{"train": \\[names\\]'),
        ("s.json", "{", "no readable JSON"),
        ("s.json", '{"train": "a_1.jpg"}', '{"train": \\[names\\]'),
        ("s.csv", "", "a column split"),
        ("s.csv", "a,b\n1,2\n", "a column split"),
        ("s.txt", "a_1.jpg\n", "<name> <split>"),
        ("s.txt", "a train\na test\n", "two splits"),
        ("s.txt", "", "is empty"),
        ("s.csv", "file,split\na\n", 'split is a word .*"" .*"a"'),
        ("s.csv", "split,file\ntrain\n", 'split "train" and no sample'),
        ("t.txt", None, "Cannot read --split-file"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SplitFileError, match=message):
        read_split_file(str(tmp_path / name))


def test_an_image_is_found_by_path_name_or_stem() -> None:
    path = "set/River/River_1.jpg"
    for name in (path, "set/River/River_1", "River_1.jpg", "River_1"):
        assert find_split({name: "val"}, path) == "val"
    assert find_split({"River_2.jpg": "val"}, path) is None
    assert find_split({"River_1.jpg": "val", path: "test"}, path) == "test"  # another River_1 may lie elsewhere
