"""A finished run as a folder that others can load: export, card, push, pull, load, merge and chat."""
