"""The app: the page opens at once, and the model behind it.

    python app.py --model qwen2.5-coder-1.5b --host 127.0.0.1 --port 7860

The same as `marco app`. Without options it serves the default model of this machine, so that it also runs as a Space.
"""

import sys

from marco.cli import main

if __name__ == "__main__":
    main(["app", *sys.argv[1:]])
