"""The operating system, where it has traps: files, sockets, descriptors, threads."""
