"""Every service in one process, and the aerodrome command."""
