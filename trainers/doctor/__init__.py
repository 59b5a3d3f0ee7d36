"""The data doctor: what rows look like beside their tokens, found in the one pass that tokenises them."""
