"""The side that listens and the side that dials: addresses, handshakes, lanes."""
