"""What the studies stand on: configuration, trials and their tuning, initialisations, tables and records."""
