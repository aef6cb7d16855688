"""minidiff: image generation from nothing, one idea a file. See README.md for the chapters."""
