"""Workflow closures in, compiled closures or located errors out; pure."""
