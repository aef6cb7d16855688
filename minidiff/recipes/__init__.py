"""How each shipped weight file is made from nothing, one module a chapter; RECIPES has them all by name."""
from minidiff.recipes import (
    autoencoding,
    codes,
    denoising,
    diffusion,
    drawing,
    flows,
    gans,
    latent_diffusion,
    mixtures,
    painting,
)

RECIPES = (drawing.RECIPES | mixtures.RECIPES | autoencoding.RECIPES | codes.RECIPES
           | flows.RECIPES | gans.RECIPES | diffusion.RECIPES | denoising.RECIPES
           | latent_diffusion.RECIPES | painting.RECIPES)
