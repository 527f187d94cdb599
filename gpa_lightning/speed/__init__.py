"""What makes training fast, and changes nothing else."""
