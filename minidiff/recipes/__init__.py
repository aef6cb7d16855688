"""Recipes: each trains one shipped weight file from nothing, measures it, and writes what it measured into the file."""
