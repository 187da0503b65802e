"""The standard library that every Aerodrome service shares."""
