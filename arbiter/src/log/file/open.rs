//! Reads a folder at a start: the newest usable checkpoint and the tail, damage told from a torn end.
