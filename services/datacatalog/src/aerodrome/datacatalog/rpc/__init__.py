"""The servicers: each call is decoded, handed to a manager, and encoded."""
