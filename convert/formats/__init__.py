"""What a LoRA file means: names, layers, families and metadata of every format that is read."""
