"""What a file really is, whatever its name says: safetensors, a pickle, half a download, a web page."""

from __future__ import annotations

import codecs

ENOUGH = 64  # bytes of a beginning
# torch's files of tensors; those of before 1.6 and other pickles, by protocol.
ZIP, PICKLE = b"PK\x03\x04", tuple(bytes((0x80, protocol)) for protocol in range(1, 6))
# First bytes, what they are of, and what to do.
_KINDS = (
    (b"version https://git-lfs", "a Git LFS pointer, which only names the file; run git lfs pull"),
    (b"\x00\x05\x16\x07", "macOS' companion of another file; take the one whose name has no ._ before it"),
    (b"GGUF", "a GGUF file, and only .safetensors is read"),
    (ZIP, "a zip archive: a pickle of torch's, which --allow-pickle reads under its right ending (.pt), or other "
          "files, to be unpacked"),
    (PICKLE, "a pickle, which --allow-pickle reads under its right ending (.pt)"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"Rar!", "a rar archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
)  # fmt: skip


def is_safetensors(start: bytes) -> bool:
    """Whether a file that begins so has a safetensors header: its length, whose highest byte is 0, and JSON."""
    return start[7:9] == b"\0{"


def is_pickle(start: bytes) -> bool:
    """Whether torch.load may be asked about a file that begins so."""
    return start.startswith((ZIP, *PICKLE)) and not is_safetensors(start)


def disguise(start: bytes) -> str | None:
    """What a file is that begins so and could not be read as what its name says, and what to do; or None."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doc", b"<html", b"<head", b"<?xml")):
        return "a web page: the download asked for a login, or the link was another's; download it again"
    # A damaged safetensors file whose header's length begins with such a byte has a zero as the eighth.
    if text.startswith((b"{", b"[")) and start[7:8] not in (b"", b"\0"):
        return "JSON text: an index or a card, or what a site answered instead of the file; name the .safetensors file"
    if is_safetensors(start):
        return None
    known = next((what for magic, what in _KINDS if start.startswith(magic)), None)
    if known is None and _is_text(start):
        return "text, such as a site answers instead of the file; read it in an editor, and download the file again"
    return known


def _is_text(start: bytes) -> bool:
    try:
        # The beginning may end within a letter.
        words = codecs.getincrementaldecoder("utf-8-sig")().decode(start)
    except UnicodeDecodeError:
        return False
    return bool(words.strip()) and all(letter.isprintable() or letter.isspace() for letter in words)
