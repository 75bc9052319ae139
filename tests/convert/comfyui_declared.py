"""Prints what the nodes declare, as JSON, with stand-ins in ComfyUI's place."""

import json

from comfyui_scene import NODES, load_names


def main():
    names, found = load_names(), {}
    for node_id, node in NODES.items():
        groups = node.INPUT_TYPES()
        found[node_id] = {
            "name": names[node_id],
            "aliases": list(node.SEARCH_ALIASES),
            "inputs": {name: value[1] for group in groups.values() for name, value in group.items()},
            "outputs": list(node.RETURN_TYPES),
            "tooltips": list(node.OUTPUT_TOOLTIPS),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
