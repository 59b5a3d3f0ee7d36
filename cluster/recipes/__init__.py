"""Recipes of clusters elsewhere: clouds, Kubernetes, Slurm, machines of one's own; all from one description."""
