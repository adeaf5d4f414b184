"""The command line: parse, call Catalog, render, exit code. The one door to click."""

from .main import main

__all__ = ["main"]
