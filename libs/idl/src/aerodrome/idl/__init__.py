"""Generated stubs of Aerodrome's own protos, and typed helpers over flyteidl."""
