"""Inputs damaged at random, for every reader of files that strangers made: see __main__.py."""
