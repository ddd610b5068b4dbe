r"""Opens a page in the browser to explore a model and its segments (needs the extra `demo`).

    python -m experiments.demo --embeddings=runs/mine/embeddings.npz --segments=segments \
        --metadata=items.csv --id_column=item_id --text_columns=title,authors,genres

--segments is the folder that experiments.segments wrote, the metadata the tables that it read;
the first text column is what items are called, the second what is shown below. With
--interactions=FILE (as for experiments.recommend) the first users of the file can be chosen, too.
--shown_columns=image_url,year adds to the cards pictures (addresses, which the browser loads), and
to the reasons what else is known.

The page is served to this machine alone, under its own names, and needs no network. Ctrl-C ends
it. JAX is not needed.
"""

from __future__ import annotations

import gc
import logging
import pathlib

import numpy as np
from absl import flags

from celsa_jax.data.metadata import printable
from celsa_jax.errors import InputError
from celsa_jax.segments import SegmentRecommender, load_segments
from celsa_jax.sparse import Recommender
from experiments import cli, demo_catalogue, inputs

FLAGS = flags.FLAGS
inputs.define_embeddings()
inputs.define_interactions()
inputs.define_metadata()
_SEGMENTS = flags.DEFINE_string("segments", None, "Folder that experiments.segments wrote.")
_PORT = flags.DEFINE_integer("port", 8501, "Port of the page.", 1, 65535)
_ADDRESS = flags.DEFINE_string("address", "localhost", "0.0.0.0 shows it to other machines.")
_BROWSER = flags.DEFINE_boolean("browser", True, "Open the page in a browser.")
_N_USERS = 200
_PAGE = pathlib.Path(__file__).with_name("demo_page.py")
_log = logging.getLogger("celsa_jax.demo")


def main() -> None:
    try:
        from streamlit import net_util
        from streamlit.web import bootstrap
    except ImportError:
        raise InputError("the demo is not installed: pip install -e '.[demo]'") from None
    cli.bind(_ADDRESS, _PORT).close()  # a port that is taken is named before all is read
    embeddings = inputs.read_sparse(FLAGS.embeddings, FLAGS.items)
    item_ids = embeddings.item_ids
    table, shown = inputs.read_item_metadata(item_ids)
    tree = load_segments(_SEGMENTS.value, item_ids)
    explorer = demo_catalogue.Explorer(
        SegmentRecommender(Recommender(embeddings), tree.for_pages),
        tree,
        table.shown(item_ids),
        table.details(item_ids),
        _read_users(item_ids) | demo_catalogue.readers(tree.for_pages),
        {name: cells for name, cells in shown.columns.items() if name in FLAGS.shown_columns},
    )
    _log.info("preparing the page; compiling at the first start")
    explorer.warm_up()
    demo_catalogue.served = explorer
    gc.freeze()  # what stays is not looked through again each time the page answers
    # It would ask an outside host, for an address to print and where a foreign page connects.
    net_util.get_external_ip = lambda: None
    options = {
        "server_address": _ADDRESS.value,
        "server_port": _PORT.value,
        "server_allowedHosts": _hosts(_ADDRESS.value),
        "server_headless": not _BROWSER.value,
        "server_fileWatcherType": "none",
        "runner_postScriptGC": False,  # before the answer is sent; Python collects on its own
        "browser_gatherUsageStats": False,
        "client_toolbarMode": "minimal",
        "theme_base": "light",
        "theme_primaryColor": "#0072B2",
        "theme_textColor": "#1c2733",
    }
    bootstrap.load_config_options(options)
    bootstrap.run(str(_PAGE), False, [], options)


def _hosts(address: str) -> list[str]:
    """What a browser may call the page, for a foreign page may give this machine a name of its own.

    To show the page to other machines, which have other names for this one, is to allow any.
    """
    if address in ("0.0.0.0", "::"):
        return ["*"]
    return [address, "localhost", "127.0.0.1", "::1"]


def _read_users(item_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Item positions of the first users of --interactions, by what they are called."""
    if not FLAGS.interactions:
        return {}
    users, _ = inputs.read_users(item_ids, FLAGS.interactions)
    histories = users.onto(item_ids)
    shown = zip(users.user_ids[:_N_USERS].tolist(), histories[:_N_USERS], strict=True)
    return {f"User {printable(user)}": row.indices for user, row in shown if row.nnz}


if __name__ == "__main__":
    cli.run(main, required=("embeddings", "segments"))
