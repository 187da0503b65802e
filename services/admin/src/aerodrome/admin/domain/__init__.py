"""Rules as plain functions and values; no IO."""
