"""The list of checks, and what they compare with."""

from comfyui_scene import MECHANISMS

CHECKS = {}


def distance(found, wanted):
    assert wanted.isfinite().all() and wanted.std() > 0
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def check(function):
    """Registers a check for both mechanisms; it returns pairs (found, wanted) that must be equal."""
    for how in MECHANISMS:
        CHECKS[f"{function.__name__}[{how}]"] = lambda how=how: max(distance(*pair) for pair in function(how))
    return function


def raises(words, function):
    try:
        function()
    except (ValueError, RuntimeError) as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"no error with {words!r}")
