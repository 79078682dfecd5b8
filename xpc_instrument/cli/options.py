"""What several commands take: the config and the probes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Optional

from .. import config as config_module
from ..config import Config
from ..errors import ConfigError

CONFIG_VARIABLE = "XPC_INSTRUMENT_CONFIG"
APP_VARIABLE = "XPC_INSTRUMENT_APP"


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """--config, --app, --probe."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=os.environ.get(CONFIG_VARIABLE),
        help=f"the config file; default: ${CONFIG_VARIABLE}, else the nearest xpc-instrument.toml, or pyproject.toml with "
        "[tool.xpc-instrument], from here upwards",
    )
    parser.add_argument(
        "--app", metavar="NAME", default=os.environ.get(APP_VARIABLE), help=f"the app name; default: ${APP_VARIABLE}, else the config's"
    )
    parser.add_argument(
        "--probe", metavar="TARGET", action="append", default=[], help="one more probe point, package.module:Name; may be repeated"
    )


def read_config(options: argparse.Namespace) -> Config:
    """The config that the options mean. Raises `ConfigError`."""
    path: Optional[Path] = Path(options.config) if options.config else config_module.find(Path.cwd())
    if path is not None:
        config = config_module.load(path)
        if options.app:
            config = config_module.with_app(config, options.app)
        return config_module.with_probes(config, options.probe)
    if options.probe:
        return config_module.from_probes(options.app or config_module.default_app(Path.cwd()), options.probe)
    raise ConfigError(
        f"no xpc-instrument.toml in {Path.cwd()} or above, and no --probe: write one, or name targets with --probe package.module:name"
    )
