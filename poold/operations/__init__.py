"""What operators use: the commands, their tables, the log."""
