"""Safe use of the operating system where it has traps: files, sockets, descriptors, threads."""
