"""Rules as plain functions and values."""
