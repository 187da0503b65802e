"""What is done, in which order, and in which transaction."""
