"""How each shipped weight file is made from nothing, one module a chapter; RECIPES has them all by name."""
from minidiff.recipes import drawing, latent_diffusion, mixtures

RECIPES = drawing.RECIPES | mixtures.RECIPES | latent_diffusion.RECIPES
