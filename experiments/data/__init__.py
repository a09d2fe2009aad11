"""Commands that make data files."""
