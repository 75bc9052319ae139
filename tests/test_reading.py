"""Whatever a text, JSON or TOML file holds, its reader answers with the content or one line that names the file."""

from pathlib import Path

import pytest

from pair_network.errors import PairError
from pair_network.reading import LARGEST, read_json, read_json_table, read_text, read_toml

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("read", "content", "words"),
    [
        (read_text, b"caf\xe9", "not UTF-8 text"),
        (read_text, bytes(LARGEST + 1), "bytes are no settings"),
        (read_text, None, "no such file"),
        (read_json, b"{", "not a JSON file"),
        (read_json, b"[" * 100_000, "not a JSON file"),
        (read_json, b"9" * 5000, "not a JSON file"),
        (read_json_table, b"[1]", "holds no table of settings"),
        (read_toml, b"a = [[1], 'x'", "not a TOML file"),
        (read_toml, b"a = " + b"[" * 5000, "not a TOML file"),
        (read_toml, b"[" + b"a." * 30 + b"a]", "20 deep"),
        (read_toml, b'a = "C:\\new"', "single quotes"),
        (read_toml, b'a = """one\ntwo"""', "write the text on one line"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, read, content, words):
    path = tmp_path / "x.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PairError) as refused:
        read(path)
    assert "x.txt" in str(refused.value) and words in str(refused.value) and str(refused.value).isprintable()


def test_the_mark_of_windows_is_no_part_of_a_text(tmp_path):
    for name, content in (("x.txt", "a cat"), ("x.json", '{"a": 1}'), ("x.toml", "a = 1")):
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert read_text(tmp_path / "x.txt") == "a cat"
    assert read_json(tmp_path / "x.json") == read_toml(tmp_path / "x.toml") == {"a": 1}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_texts_of_powershell_are_read(tmp_path, encoding):
    """``echo "a cat" > x.txt`` there writes UTF-16, with a mark in front and a line's end of two characters behind."""
    mark = "" if encoding == "utf-16" else "\ufeff"
    (tmp_path / "x.txt").write_bytes(f"{mark}ein Kätzchen\r\n".encode(encoding))
    assert read_text(tmp_path / "x.txt") == "ein Kätzchen\n"
    (tmp_path / "x.txt").write_bytes((tmp_path / "x.txt").read_bytes() + b"\0")  # cut off in a character
    with pytest.raises(PairError, match=r"x\.txt: not UTF-8 text"):
        read_text(tmp_path / "x.txt")


def test_training_reads_texts_in_no_other_way():
    """Else each reader has the list of what may be wrong with a file once more, and each forgets something else."""
    ours = (
        "hosts/embedded/state.py",
        "training/steps.py",
        "musubi/dataset.py",
        "hosts/versions.py",
        "training/presets.py",
    )
    ours += ("report/record.py", "report/report.py")
    found = [
        f"{path.name}: {line.strip()}"
        for folder in ("training", "pseudo_pairs", "sampling")
        for path in (ROOT / "pair_network" / folder).rglob("*.py")
        if not path.as_posix().endswith(ours)  # files that the project itself has written, or code
        for line in path.read_text(encoding="utf-8").splitlines()
        if any(words in line for words in (".read_text(", "toml.loads(", "toml.load(", "json.load("))
    ]
    assert found == []
