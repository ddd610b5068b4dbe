"""Flags of the programs that train or read runs, defined once for all of them."""

from absl import flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config", help_string="Configuration file.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, or of the runs.")
