"""The same nodes under ComfyUI's newer interface (V3), made from their declarations in nodes.py."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Protocol

from comfy_api.latest import ComfyExtension, io

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

WIDGETS = {"FLOAT": io.Float, "STRING": io.String}
OF_SCHEMA = {field.name for field in fields(io.Schema)}


class Declared(Protocol):
    """What the older interface asks of a node's class."""

    CATEGORY: str
    DESCRIPTION: str
    FUNCTION: str
    RETURN_TYPES: tuple[str, ...]
    OUTPUT_TOOLTIPS: tuple[str, ...]
    SEARCH_ALIASES: tuple[str, ...]
    __name__: str

    def __call__(self) -> Any: ...

    def INPUT_TYPES(self) -> dict[str, Any]: ...


def as_v3(node_id: str, node: Declared) -> type[io.ComfyNode]:
    """A V3 node of the same name, inputs, outputs and work, so that workflows made with either open with both."""

    class Node(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            found = {"search_aliases": list(node.SEARCH_ALIASES)}  # not in the first versions of the schema
            return io.Schema(
                node_id=node_id,
                display_name=NODE_DISPLAY_NAME_MAPPINGS[node_id],
                category=node.CATEGORY,
                description=node.DESCRIPTION,
                inputs=inputs_of(node),
                outputs=outputs_of(node),
                **{name: value for name, value in found.items() if name in OF_SCHEMA},
            )

        @classmethod
        def execute(cls, **inputs: Any) -> io.NodeOutput:
            return io.NodeOutput(*getattr(node(), node.FUNCTION)(**inputs))

    Node.SEARCH_ALIASES = node.SEARCH_ALIASES
    if hasattr(node, "IS_CHANGED"):
        Node.fingerprint_inputs = classmethod(lambda cls, **inputs: node.IS_CHANGED(**inputs))
    Node.__name__ = Node.__qualname__ = node.__name__
    return Node


def inputs_of(node: Declared) -> list[Any]:
    inputs = []
    for group, declared in node.INPUT_TYPES().items():
        for name, (kind, options) in declared.items():
            is_optional = group == "optional"
            if isinstance(kind, list):
                inputs.append(io.Combo.Input(name, options=kind, optional=is_optional, **options))
            else:
                of_kind = WIDGETS.get(kind) or io.Custom(kind)
                inputs.append(of_kind.Input(name, optional=is_optional, **options))
    return inputs


def outputs_of(node: Declared) -> list[Any]:
    names = getattr(node, "RETURN_NAMES", node.RETURN_TYPES)
    return [
        io.Custom(kind).Output(display_name=name, tooltip=tooltip)
        for kind, name, tooltip in zip(node.RETURN_TYPES, names, node.OUTPUT_TOOLTIPS, strict=True)
    ]


class PairNetworkExtension(ComfyExtension):
    """What ComfyUI asks for the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [as_v3(node_id, node) for node_id, node in NODE_CLASS_MAPPINGS.items()]


async def comfy_entrypoint() -> PairNetworkExtension:
    return PairNetworkExtension()
