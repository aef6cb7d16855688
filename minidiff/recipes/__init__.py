"""How each shipped weight file is made from nothing, one module a chapter; RECIPES has them all by name."""
from minidiff.recipes import drawing, latent_diffusion

RECIPES = drawing.RECIPES | latent_diffusion.RECIPES
