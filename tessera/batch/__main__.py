"""``python -m tessera.batch …`` is ``tessera batch …``: the name that an entry point of ``ray job submit`` can have."""

import sys

from tessera.cli.app import main

if __name__ == "__main__":
    sys.exit(main(["batch", *sys.argv[1:]]))
