"""Between protobuf messages and rows, nothing else."""
