"""Style guidance for ComfyUI. This folder stands alone: it needs what ComfyUI itself has, and nothing else of ours."""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
