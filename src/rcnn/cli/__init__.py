"""The `rcnn` command. main.py is read first; each subcommand is a file."""
