"""Subcommands of ``gridnode`` that belong to the operator, one module each, imported only when called."""
