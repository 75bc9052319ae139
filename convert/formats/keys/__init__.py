"""Names of model layers as data: what each family's checkpoints call a layer, and what diffusers calls it."""
