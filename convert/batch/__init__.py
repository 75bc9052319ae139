"""Many files in one run: what is to be done, each job, and the log that a later run goes on from."""
