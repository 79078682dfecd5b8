"""What several commands take: the config and the probes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import List, Optional

from ..core.config import file as config_module
from ..core.config.schema import Config
from ..core.model.errors import ConfigError

CONFIG_VARIABLE = "XPC_INSTRUMENT_CONFIG"
APP_VARIABLE = "XPC_INSTRUMENT_APP"


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """--config, --app, --probe."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=os.environ.get(CONFIG_VARIABLE) or None,
        help=f"the config file; default: ${CONFIG_VARIABLE}, else the nearest xpc-instrument.toml, or pyproject.toml with "
        "[tool.xpc-instrument], from here upwards",
    )
    parser.add_argument(
        "--app",
        metavar="NAME",
        default=os.environ.get(APP_VARIABLE) or None,
        help=f"the app name; default: ${APP_VARIABLE}, else the config's",
    )
    parser.add_argument(
        "--probe", metavar="TARGET", action="append", default=[], help="one more probe point, package.module:Name; may be repeated"
    )


def add_on_demand_option(parser: argparse.ArgumentParser) -> None:
    """--on-demand."""
    parser.add_argument(
        "--on-demand",
        metavar="PATTERN",
        action="append",
        default=[],
        help="what may be hooked when a script asks for it, such as 'shop.**'; may be repeated; without a config and --probe: '**'",
    )


def current_folder() -> Path:
    """Where the command was typed. Raises `ConfigError` if that folder has been removed since."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise ConfigError("the current folder does not exist any more: go to one that does, or use --config and --app") from None


def read_config(options: argparse.Namespace) -> Config:
    """The config that the options mean. Raises `ConfigError`."""
    if options.config == "":
        raise ConfigError('--config "": expected the path of a config file')
    # Only of commands that take it; there a config or a probe is not needed.
    on_demand: Optional[List[str]] = getattr(options, "on_demand", None)
    path: Optional[Path] = Path(options.config) if options.config is not None else config_module.find(current_folder())
    if path is not None:
        config = config_module.load(path)
        if options.app is not None:
            config = config_module.with_app(config, options.app)
        return config_module.with_on_demand(config_module.with_probes(config, options.probe), on_demand or ())
    if options.probe or on_demand is not None:
        app = config_module.default_app(current_folder()) if options.app is None else options.app
        return config_module.with_on_demand(config_module.from_probes(app, options.probe), on_demand or (() if options.probe else ("**",)))
    raise ConfigError(
        f"no xpc-instrument.toml in {current_folder()} or above, and no --probe: "
        "write one, or name targets with --probe package.module:name"
    )
