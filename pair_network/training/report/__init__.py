"""What a run has learnt, to look at: its record, the figures measured on the user's own model, and report.html."""
