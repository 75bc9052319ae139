"""The one exception that users see."""

MAX_LETTERS = 600


class GuidanceError(ValueError):
    """A reason why a picture cannot be guided: one line with the file or control, the cause and the remedy.

    It quotes names out of files from anywhere, which may hold line breaks or be as long as the file.
    """

    def __init__(self, reason: str) -> None:
        line = " ".join("".join(letter if letter.isprintable() else " " for letter in reason).split())
        super().__init__(line if len(line) <= MAX_LETTERS else line[: MAX_LETTERS - 1] + "…")
