"""What needs a running UI: the panel, plot axes, one adapter for A1111's sampling and one for Forge and its kin."""
