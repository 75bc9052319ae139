"""Links in model folders: those of a Hugging Face cache are its normal form, any other that leads out is not."""

from __future__ import annotations

from pathlib import Path

SNAPSHOTS, BLOBS = "snapshots", "blobs"


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path lies outside the folder once its links are followed.

    A folder that ``from_pretrained`` has fetched, ``models--OWNER--NAME/snapshots/HASH``, holds links into the
    ``blobs`` folder of the same model; these files belong to it.
    """
    real = path.resolve()
    return not any(real.is_relative_to(root) for root in (folder.resolve(), *_blobs(folder)))


def _blobs(folder: Path) -> list[Path]:
    """The folder of files that a snapshot in a Hugging Face cache links to, for a snapshot or what lies in one."""
    above = (folder.resolve(), *folder.resolve().parents)
    return [
        (place.parents[1] / BLOBS).resolve()
        for place in above
        if place.parent.name == SNAPSHOTS and (place.parents[1] / BLOBS).is_dir()
    ]
