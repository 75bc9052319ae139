"""Style guidance: the script that A1111 and Forge load. Everything it does is in the two packages beside it."""

from importlib.util import find_spec

from lib_pair_network.settings import TITLE
from modules import script_callbacks, scripts
from pair_network_ui import panel, plot, processing

if find_spec("modules_forge") is None:
    from pair_network_ui import a1111 as sampling
else:
    from pair_network_ui import forge as sampling

HOOK = "process_before_every_sampling"  # since A1111 1.10; what is older would never guide
TOO_OLD = "this UI is too old (A1111 1.10 or later is needed)"


class StyleGuidanceScript(scripts.Script):
    """The accordion and the stations of a generation."""

    def title(self):
        return TITLE

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return panel.build(self, "img2img" if is_img2img else "txt2img")

    def process(self, p, *arguments):
        processing.begin(p, arguments)
        session = processing.session_of(p)
        if session is not None and not hasattr(scripts.Script, HOOK):
            session.fail(TOO_OLD)

    def process_before_every_sampling(self, p, *arguments, **keywords):
        session = processing.session_of(p)
        if session is not None and session.failure is None:
            with session.guarded("the preparation of the styles"):
                sampling.before_sampling(p, session)

    def postprocess_batch(self, p, *arguments, **keywords):
        processing.check_batch(p)

    def postprocess(self, p, processed, *arguments):
        processing.end(p)


sampling.register()
script_callbacks.on_before_ui(plot.add_axes)
