"""Fires launch plans on time, exactly once for each slot."""
