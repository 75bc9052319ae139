"""The embedded model: scenes drawn by code, a small text-to-image model trained on them, and the bundled pairs."""
