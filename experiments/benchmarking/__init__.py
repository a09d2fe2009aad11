"""Parts of the benchmarks: timing, other libraries, costs of steps, memory and pools of ranks."""
