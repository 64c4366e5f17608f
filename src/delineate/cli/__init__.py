"""The command line: one file per group of commands; nothing is imported before its command is called."""
