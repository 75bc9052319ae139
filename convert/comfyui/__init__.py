"""Style guidance for ComfyUI. This folder stands alone: it needs what ComfyUI itself has, and nothing else of ours."""

WEB_DIRECTORY = "./web"  # help pages of the nodes

try:
    from .extension import comfy_entrypoint

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
except ImportError:  # before ComfyUI 0.3.50 or so; where both are offered, ComfyUI takes the older interface
    from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

    __all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
