"""What moves frames: sockets, TLS, shared memory, and event loops that wait for them."""
