"""What a pipeline asks of its model, step by step, for the references of both kinds of pipeline."""

import copy

import torch

TEXT = ("encoder_hidden_states", "encoder_hidden_states_mask", "pooled_projections", "cap_feats")


class Watched:
    """What a run asks of its model, step by step, and the prediction that its scheduler gets."""

    def __init__(self, pipe):
        self.pipe, self.model = pipe, pipe.unet if hasattr(pipe, "unet") else pipe.transformer
        self.steps, self._calls = [], []

    def __enter__(self):
        def note(_, args, kwargs):
            names = ("x", "t", "cap_feats") if "ZImage" in type(self.model).__name__ else ("sample", "timestep")
            self._calls.append(copy.copy(dict(zip(names, args, strict=False)) | kwargs))

        self._hook = self.model.register_forward_pre_hook(note, with_kwargs=True)
        self._step = self.pipe.scheduler.step
        self.pipe.scheduler.step = self._note_step
        return self

    def _note_step(self, prediction, *args, **kwargs):
        self.steps.append((self._calls, prediction.clone()))
        self._calls = []
        return self._step(prediction, *args, **kwargs)

    def __exit__(self, *_):
        self._hook.remove()
        del self.pipe.scheduler.step

    @property
    def calls(self):
        """Model calls in each step."""
        return [len(calls) for calls, _ in self.steps]


def predicted(model, inputs):
    """A model call's prediction, as the family's loop reads it."""
    output = model(**inputs)[0]
    return -torch.stack(output).squeeze(2) if isinstance(output, list) else output


def with_text_of(inputs, other):
    """A call's inputs with another call's prompt."""
    styled = {**inputs, **{name: other[name] for name in TEXT if name in other}}
    if "added_cond_kwargs" in other:
        styled["added_cond_kwargs"] = {
            **inputs["added_cond_kwargs"],
            "text_embeds": other["added_cond_kwargs"]["text_embeds"],
        }
    return styled
