"""The one version string of the library, the agent and the command."""

__version__ = "0.1.0"
