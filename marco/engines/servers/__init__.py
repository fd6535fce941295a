"""The kinds of server that run a model, one small adapter each; what is common to them is in `base`."""
