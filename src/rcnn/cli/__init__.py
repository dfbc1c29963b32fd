"""The `rcnn` command. Read main.py first; each subcommand has its own file."""
