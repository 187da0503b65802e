"""The servicers: decode, call a manager, encode."""
