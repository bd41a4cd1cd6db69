"""Subcommands of ``gridnode``, one module each, imported only when called."""
