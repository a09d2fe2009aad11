"""What all training stands on: processes, checkpoints, CUDA graphs, and checks of arguments."""
