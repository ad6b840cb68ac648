"""Open a page that predicts and explains the images that you drop on it.

    python -m scripts.demo --workdir=runs/inception_seed0
    python -m scripts.demo --export=DIR --port=8000
    python -m scripts.demo --model=vgg16 --weights=FILE

The page shows the most probable classes with their calibrated probabilities, and the
map of any method, class and layer. If you choose a second class, the page adds its map,
and a map of what speaks for the first class and not for the second. The maps can be
downloaded as PNGs. Only this machine can open the page, unless --host gives another
address. The page makes no requests to other servers. It needs `pip install -e .[demo]`.
"""

import threading

from absl import flags

from scripts import console, network_flags
from seeflower_jax.report import demo

flags.adopt_module_key_flags(network_flags)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "The address to listen on.")
_PORT = flags.DEFINE_integer("port", None, "The port; the default is a free one.", 1)


def main(_) -> None:
    page = demo.page(network_flags.load_network())
    address = {"server_name": _HOST.value, "server_port": _PORT.value}
    options = {**demo.PRIVATE, **address, "quiet": True, "prevent_thread_lock": True}
    _, url, _ = page.launch(**options)
    console.show({"url": url}, f"{url} (Ctrl-C ends the page)")
    try:
        threading.Event().wait()  # Gradio's own waiting hides an interruption.
    finally:
        page.close(verbose=False)


if __name__ == "__main__":
    console.run(main)
