"""What a file really is that has the name of a safetensors file and is none: half a download, a web page, a pickle."""

from __future__ import annotations

# First bytes, what they are of, and what to do.
_KINDS = (
    (b"version https://git-lfs", "a Git LFS pointer, which only names the file; run git lfs pull"),
    (b"\x00\x05\x16\x07", "macOS' companion of another file; take the one whose name has no ._ before it"),
    (b"GGUF", "a GGUF file, and only .safetensors is read"),
    (b"PK\x03\x04", "a zip archive: a pickle of torch's, which --allow-pickle reads under its right ending (.pt), or "
                    "other files, to be unpacked"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"Rar!", "a rar archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
)  # fmt: skip


def disguise(start: bytes) -> str | None:
    """What a file is that begins so and could not be read as safetensors, and what to do; or None: nothing known."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doc", b"<html", b"<head", b"<?xml")):
        return "a web page: the download asked for a login, or the link was another's; download it again"
    # A damaged safetensors file whose header's length begins with such a byte has a zero as the eighth.
    if text.startswith((b"{", b"[")) and start[7:8] not in (b"", b"\0"):
        return "JSON text: an index or a card, or what a site answered instead of the file; name the .safetensors file"
    return next((what for magic, what in _KINDS if start.startswith(magic)), None)
