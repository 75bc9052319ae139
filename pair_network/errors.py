"""The one exception that users see."""


class PairError(ValueError):
    """A mistake in a user's input: one line that names the file or option, the cause and the remedy."""
