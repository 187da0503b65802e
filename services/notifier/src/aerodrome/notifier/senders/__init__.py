"""The ways out: mail and HTTP."""
