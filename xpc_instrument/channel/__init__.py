"""The cross-process channel: frames, handshake, lanes, the node that listens and the node that joins. Standard library only."""
