"""What the benchmarks stand on: timing, other libraries, costs of steps, memory and pools of ranks."""
