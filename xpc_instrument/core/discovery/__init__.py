"""The runtime directory, in which applications and scripts find each other."""
