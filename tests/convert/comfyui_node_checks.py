"""Checks of the nodes beside the formula: content CFG that ends, one node for all, both of ComfyUI's interfaces."""

import importlib

from comfyui_registry import CHECKS, check, distance, raises
from comfyui_scene import LORAS, MECHANISMS, NODES, Guidance, Patch, Run, backend, lora_of, make_model, prompt, style
from safetensors.torch import save_file


@check
def content_cfg_ends(how):
    """From 0.5 of the schedule on a step is the one of cfg 1; the references are three samplings with the nodes."""
    model, words = make_model(), prompt(30)
    tensors, _ = lora_of(model, 3)
    styles = style(tensors, words, 1.5)
    run, later = Run(), Run(cfg=1.0)
    whole, plain = (r.guided(model, styles, how) for r in (run, later))
    assert distance(whole, plain) > 1e-2
    yield run.guided(model, styles, how, cfg_end=0.0), plain
    yield run.guided(model, styles, how, cfg_end=1.0), whole
    found = run.guided(model, styles, how, cfg_end=0.5)
    # The "normal" scheduler's six steps begin at 0, 0.2, 0.4, … of the schedule.
    yield found, run.joined_guided(later, model, styles, how, 3)
    assert distance(found, whole) > 1e-3 and distance(found, plain) > 1e-3


@check
def content_cfg_ends_on_the_formula(how):
    """At cfg_end 0 and λ 1 nothing of the prompt and the negative prompt is left: the merged LoRA's cfg 1 picture."""
    model, words = make_model(), prompt(30)
    tensors, deltas = lora_of(model, 3)
    wanted = Run(cfg=1.0).plain(make_model("sd1", deltas), words)
    yield Run().guided(model, style(tensors, words), how, cfg_end=0.0), wanted


@check
def two_patches_with_a_content_cfg_that_ends(how):
    """Each adds its own shift, whichever ends the content's CFG."""
    run, words, model = Run(), prompt(30), make_model()
    tensors, deltas = lora_of(model, 3)
    wanted = Run(cfg=1.0).plain(make_model("sd1", deltas), words)
    if how == "patch":
        half = style(tensors, words, 0.5)
        yield run.plain(Patch.patch(Patch.patch(model, half, 0.0)[0], half)[0]), wanted
        yield run.plain(Patch.patch(Patch.patch(model, half)[0], half, 0.0)[0]), wanted
        yield run.plain(Patch.patch(Patch.patch(model, half, 0.0)[0], half, 0.0)[0]), wanted
    yield wanted, wanted


@check
def negative_prompts_that_are_not_needed(how):
    """None is evaluated once the content's CFG has ended: 6 + 6 + 6 evaluations become 6 + 3 + 6."""
    model, words = make_model(), prompt(30)
    styles = style(lora_of(model, 3)[0], words)
    rows = []
    handle = model.model.diffusion_model.register_forward_hook(lambda m, inputs, out: rows.append(out.shape[0]))
    for cfg_end, wanted in ((1.0, 18), (0.5, 15)):
        rows.clear()
        Run().guided(model, styles, how, cfg_end=cfg_end)
        assert sum(rows) == wanted, (cfg_end, rows)
    handle.remove()
    yield words[0][0], words[0][0]


class Clip:
    """Encodes a text as ComfyUI's CLIP does: each its own numbers."""

    def tokenize(self, text):
        return {"l": text}

    def encode_from_tokens_scheduled(self, tokens):
        return prompt(sum(map(ord, tokens["l"])))


@check
def one_node(how):
    """It is the chain of three nodes; without words the file's own trigger words are taken."""
    model, clip = make_model(), Clip()
    tensors, _ = lora_of(model, 3)
    words = clip.encode_from_tokens_scheduled({"l": "a cat in ink"})
    styles = style(tensors, words, 2.0)
    name = "triggered.safetensors"
    save_file(tensors, LORAS / name, {"modelspec.trigger_phrase": "in ink"})
    plain = clip.encode_from_tokens_scheduled({"l": "a cat"})
    run = Run(positive=plain)
    wanted = run.guided(model, styles, how)
    for given in ("in ink", ""):
        patched, positive = Guidance.guide(model, clip, "a cat", given, name, 2.0, 0.0)
        yield run.plain(patched, positive), wanted
    raises("no text encoder", lambda: Guidance.guide(model, None, "a cat", "in ink", name, 2.0))


def declared_the_same(how):
    """ComfyUI is told the same of a node in its older interface and in the newer one."""
    extension = importlib.import_module("pair_nodes.extension")
    for node_id, node in NODES.items():
        newer = extension.as_v3(node_id, node).GET_NODE_INFO_V1()
        assert newer["name"] == node_id and tuple(newer["output"]) == node.RETURN_TYPES
        assert tuple(newer["output_tooltips"]) == node.OUTPUT_TOOLTIPS
        for group, declared in node.INPUT_TYPES().items():
            assert list(newer["input"][group]) == list(declared), (node_id, group)
            for name, (kind, options) in declared.items():
                found_kind, found = newer["input"][group][name]
                assert found_kind == (kind if isinstance(kind, str) else "COMBO") or found_kind == kind, (
                    name,
                    found_kind,
                )
                assert {key: found[key] for key in options} == options, (node_id, name, found)
    return 0.0


if backend.__name__ == "comfyui_real":
    for how in MECHANISMS:
        CHECKS[f"declared_the_same[{how}]"] = lambda how=how: declared_the_same(how)
