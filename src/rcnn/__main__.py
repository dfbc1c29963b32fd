"""`python -m rcnn` is the command `rcnn`."""

from rcnn.cli.main import main

if __name__ == "__main__":
    main()
