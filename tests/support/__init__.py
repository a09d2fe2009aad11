"""What tests share: exact oracles, stand-ins for devices, and the rows and runs that several files use."""
