"""sd-scripts' sample prompts as TOML and JSON, as lines of its text form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pair_network.errors import PairError, nearest
from pair_network.reading import read_json, read_toml

FLAGS = {
    "negative_prompt": "n", "width": "w", "height": "h", "seed": "d", "sample_steps": "s", "scale": "l",
}  # fmt: skip
# What sd-scripts' previews take for samplers and families that are not drawn here: passed over, and said.
ELSEWHERE = {
    "sample_sampler": "ss", "guidance_scale": "g", "controlnet_image": "cn", "cfg_trunc_ratio": "ctr",
    "renorm_cfg": "rcfg", "flow_shift": "fs", "enum": "",
}  # fmt: skip


def lines_of(path: Path) -> list[str]:
    """Every prompt of a .toml file ([prompt] with [[prompt.subset]]) or of a .json list, one in a line.

    Raises:
        PairError: The file is broken, or has an unknown key.
    """
    entries: object
    if path.suffix.lower() == ".json":
        entries = read_json(path, "--sample_prompts")
    else:
        content = read_toml(path).get("prompt")
        if not isinstance(content, Mapping):
            raise PairError(f"--sample_prompts {path}: there is no [prompt] in it")
        shared = {key: value for key, value in content.items() if key != "subset"}
        subsets = content.get("subset", [{}])
        if not isinstance(subsets, list):
            raise PairError(f"--sample_prompts {path}: write its prompts as [[prompt.subset]]")
        entries = [{**shared, **each} if isinstance(each, Mapping) else each for each in subsets]
    if not isinstance(entries, list) or not all(isinstance(entry, (Mapping, str)) for entry in entries):
        raise PairError(f"--sample_prompts {path}: a list of prompts, each a table or a line of text, is needed")
    if not entries:
        raise PairError(f"--sample_prompts {path}: the file holds no prompt")
    return [_line({"prompt": entry} if isinstance(entry, str) else entry, path) for entry in entries]


def _line(entry: Mapping[str, object], path: Path) -> str:
    known = ("prompt", *FLAGS)
    entry = {key: value for key, value in entry.items() if key not in ELSEWHERE}
    for key, value in entry.items():
        if key not in known:
            raise PairError(f"--sample_prompts {path}: unknown key {key!r}{nearest(key, known)}")
        if isinstance(value, bool) or not isinstance(value, (str, int, float)) or "\n" in str(value):
            raise PairError(f"--sample_prompts {path}: {key} = {value!r} is neither a number nor a line of text")
    if not str(entry.get("prompt", "")).strip():
        raise PairError(f"--sample_prompts {path}: a prompt is missing or empty")
    flags = [f"--{FLAGS[key]} {value}" for key, value in entry.items() if key in FLAGS]
    return " ".join([str(entry["prompt"]).strip(), *flags])
