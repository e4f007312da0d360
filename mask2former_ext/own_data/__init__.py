"""Training on data of one's own: what is given, how it is registered, what a config needs for it, training itself.

``config.load_config`` imports ``cards`` from here, so nothing is imported on the way to it.
"""
