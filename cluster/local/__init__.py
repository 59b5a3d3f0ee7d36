"""A Ray cluster of this machine that outlives the command that started it: ``luthier cluster up``, ``down``, ``status``."""
