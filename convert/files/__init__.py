"""Bytes on disk: headers, tensors that are read when they are needed, and files written whole or not at all."""
