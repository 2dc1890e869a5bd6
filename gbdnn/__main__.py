"""``python -m gbdnn``: the command `gbdnn`."""

from gbdnn.cli.main import main

main()
