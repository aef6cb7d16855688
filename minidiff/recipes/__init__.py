"""How each shipped weight file is made from nothing, one module a chapter; RECIPES has them all by name."""
from minidiff.recipes import (
    assembling,
    autoencoding,
    codes,
    compressors,
    denoising,
    diffusion,
    drawing,
    features,
    flows,
    gans,
    guides,
    inpainting,
    latent_diffusion,
    mixtures,
    painting,
    scoreboard,
    showing,
    trial,
)

RECIPES = (drawing.RECIPES | mixtures.RECIPES | autoencoding.RECIPES | codes.RECIPES
           | flows.RECIPES | gans.RECIPES | diffusion.RECIPES | denoising.RECIPES
           | latent_diffusion.RECIPES | painting.RECIPES | compressors.RECIPES | assembling.RECIPES
           | showing.RECIPES | guides.RECIPES
           | inpainting.RECIPES | features.RECIPES | trial.RECIPES | scoreboard.RECIPES)
