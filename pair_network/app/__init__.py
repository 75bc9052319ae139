"""The page: a photo and its painting go in, a style LoRA and pictures come out; on this computer alone."""
