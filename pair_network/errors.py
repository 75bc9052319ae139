"""The one exception that users see, and the failure that is nobody's mistake."""


class PairError(ValueError):
    """A mistake in a user's input: one line that names the file or option, the cause and the remedy."""


def is_out_of_memory(failure: RuntimeError) -> bool:
    """Whether a device had too little memory; only CUDA's allocator has an exception of its own for it."""
    return any(words in str(failure) for words in ("out of memory", "can't allocate memory"))
