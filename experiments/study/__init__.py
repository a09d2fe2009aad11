"""Parts of the studies: options, trials and their tuning, initialisations, tables and records."""
