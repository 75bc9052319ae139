"""The quality bench: styles with a known answer, learnt from one pair, measured against that answer."""
