"""Pairs out of one pair: the change from photo to painting, learnt by pixels and made to other pictures."""
