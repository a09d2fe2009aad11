"""Faults that are put into runs: kills, corrupt checkpoints, and limits of resources."""
