"""Kills, signals, full disks and broken input, by the hundred: nothing is lost, nothing foreign runs.

``python -m benchmarks.fire`` needs a system that can fork (Linux, macOS): every trial is a child of one process that
has imported everything, so that hundreds of them take minutes.
"""
