"""Metadata of a converted file: carried over, corrected where the conversion changed it, never invented."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping

from pair_network.families import Family, claims_of_metadata
from pair_network.network.pair_file import CONFIG_KEY

from .layers import Adapter, Branch

# What describes the bytes or the wrapping of the old file and is wrong for any other.
STALE = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256", "lora_adapter_metadata", CONFIG_KEY)
HISTORY_KEY = "pair_network_converted"


def converted(adapter: Adapter, verb: str, facts: Mapping[str, object] | None = None) -> dict[str, str]:
    """The adapter's metadata without what no longer holds, and one line of history.

    Args:
        adapter: What was read.
        verb: The conversion.
        facts: Choices that changed the numbers (strength, rank, …), kept with the verb.
    """
    values = {key: value for key, value in adapter.metadata.items() if key not in STALE}
    values[HISTORY_KEY] = with_history(adapter.metadata, {"verb": verb, "from": adapter.format, **(facts or {})})
    return values


def with_history(metadata: Mapping[str, str], entry: Mapping[str, object]) -> str:
    """The file's history with one more entry."""
    return json.dumps([*_history(metadata), entry])


def _history(metadata: Mapping[str, str]) -> list[object]:
    try:
        entries = json.loads(metadata.get(HISTORY_KEY, "[]"))
    except (ValueError, RecursionError):
        return []
    return entries if isinstance(entries, list) else []


def set_rank(values: dict[str, str], branch: Branch) -> None:
    """``ss_network_dim`` and ``ss_network_alpha`` of the layers as they are; "Dynamic" as kohya writes mixed ones."""
    ranks = {layer.rank for layer in branch.values()}
    alphas = {layer.alpha for layer in branch.values()}
    values["ss_network_dim"] = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    values["ss_network_alpha"] = f"{alphas.pop():g}" if len(alphas) == 1 else "Dynamic"


def correct_rank(values: dict[str, str], branch: Branch) -> None:
    """Rank and alpha of the layers that are written, where the file names them at all.

    Splitting or joining layers changes ranks, and a format without alpha has it multiplied into the ups.
    """
    told = values.keys() & {"ss_network_dim", "ss_network_alpha"}
    own = dict(values)
    set_rank(own, branch)
    values.update({key: own[key] for key in told})


def set_kohya(values: dict[str, str], adapter: Adapter, branch: Branch, output_name: str) -> None:
    """What makes the UIs recognise family and format; the file's own words are kept where they agree."""
    family = adapter.family
    set_rank(values, branch)
    if adapter.is_sure:
        if not _means(values, "ss_base_model_version", family):
            values["ss_base_model_version"] = family.words.version
        values["ss_v2"] = str(family.is_v2)
        if not _is_right(values, family):
            values["modelspec.architecture"] = family.words.architecture
    values["ss_network_module"] = "networks.lora"
    values["ss_output_name"] = safe_name(output_name)


def _means(values: Mapping[str, str], key: str, family: Family) -> bool:
    """Whether one statement of a file's metadata means the family already."""
    return any(family.name in claim for claim in claims_of_metadata({key: values.get(key, "")}))


def _is_right(values: Mapping[str, str], family: Family) -> bool:
    found, wanted = values.get("modelspec.architecture", ""), family.words.architecture
    # Forge compares these for equality; the other families have several spellings that are as right.
    if family.name in ("sd1", "sdxl", "flux"):
        return found == wanted
    return found.endswith("/lora") and _means(values, "modelspec.architecture", family)


def safe_name(name: str) -> str:
    """A name that A1111's ``<lora:NAME:weight>`` can hold and that it does not parse as JSON."""
    return re.sub(r"[:,<>]", "_", name).lstrip("{") or "lora"


def trigger_words(metadata: Mapping[str, str]) -> str:
    return metadata.get("modelspec.trigger_phrase", "")


def training_tags(metadata: Mapping[str, str], limit: int = 8) -> list[str]:
    """The tags that kohya counted in the captions, the most frequent first: a trigger word is mostly among them."""
    counts: Counter[str] = Counter()
    try:
        for folder in json.loads(metadata.get("ss_tag_frequency", "{}")).values():
            for tag, count in folder.items():
                counts[str(tag).strip()] += int(count)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return []
    return [tag for tag, _ in counts.most_common(limit)]
