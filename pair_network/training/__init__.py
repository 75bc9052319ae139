"""Training on pairs: the two losses, the pairs' batches, and the hosts that own the loop."""
