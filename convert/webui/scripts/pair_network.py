"""Style guidance: the script that the UIs load. Everything it does is in the two packages beside it."""

from lib_pair_network.errors import GuidanceError
from lib_pair_network.settings import TITLE
from modules import script_callbacks, scripts
from pair_network_ui import detect, notice

HOOK = "process_before_every_sampling"  # since A1111 1.10; what is older would never guide

try:
    if not hasattr(scripts.Script, HOOK):
        raise GuidanceError(f"this UI is too old; style guidance works in {detect.KNOWN}")
    sampling = detect.find_sampling()
    from pair_network_ui import panel, plot, processing
except (GuidanceError, ImportError) as cause:
    sampling, problem = None, str(cause)


class StyleGuidanceScript(scripts.Script):
    """The accordion and the stations of a generation."""

    def title(self):
        return TITLE

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        if sampling is None:
            return notice.build(problem)
        return panel.build(self, "img2img" if is_img2img else "txt2img")

    def process(self, p, *arguments):
        if sampling is not None:
            processing.begin(p, arguments)

    def process_before_every_sampling(self, p, *arguments, **keywords):
        session = processing.session_of(p) if sampling is not None else None
        if session is not None and session.failure is None:
            with session.guarded("the preparation of the styles"):
                sampling.before_sampling(p, session)

    def postprocess_batch(self, p, *arguments, **keywords):
        if sampling is not None:
            processing.check_batch(p)

    def postprocess(self, p, processed, *arguments):
        if sampling is not None:
            processing.end(p)


if sampling is not None:
    sampling.register()
    script_callbacks.on_before_ui(plot.add_axes)
