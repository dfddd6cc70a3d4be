"""The control API: what connectors and their command lines ask of an edge over HTTP."""
