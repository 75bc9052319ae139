"""What can be seen about a run before it starts: pairs that are none, words, rates, and how long it will take."""
