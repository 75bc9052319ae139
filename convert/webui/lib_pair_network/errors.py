"""The one exception that users see."""


class GuidanceError(ValueError):
    """A reason why a picture cannot be guided: one line with the file or control, the cause and the remedy."""
