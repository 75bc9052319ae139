"""The two hosts that pair training runs on."""
