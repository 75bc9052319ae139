"""What needs a running UI: the panel, plot axes, and one adapter for the sampling of A1111 and one for Forge's."""
