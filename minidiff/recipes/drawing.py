"""Chapter 0: pixel GPT, which draws world `single` pixel by pixel, and four models of grey pictures to compare."""
import json
from datetime import date
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from minidiff import autoregressive as ar
from minidiff import captions, weights
from minidiff.autoregressive import CausalConvolution, PixelGPT, PixelGPTConfig, palette, to_codes, written
from minidiff.captions import encode
from minidiff.data import rng
from minidiff.oracle import prompt_accuracy, read
from minidiff.plot import write
from minidiff.recipes.about import RUNS, fast_precision, followed, machine, made, measured
from minidiff.scenes import BACKGROUNDS, COLOURS, Scenes, render, single
from minidiff.train import Training


def pixel_gpt(folder: Path = weights.TRAINED, steps: int = 3000, n: int = 1000) -> None:
    """pixel-gpt: pictures of 16x16 in 64 colours after a caption, pixel by pixel; n captions measure the file."""
    scenes = single("train")
    pictures = render(scenes, 16)
    model = made(lambda: PixelGPT(PixelGPTConfig()))
    model.palette.copy_(palette(pictures, model.config.colours))
    codes = to_codes(pictures, model.palette)
    run = Training(model, model.loss, written(scenes, codes, 32), steps=steps, lr=2.5e-3, warmup=200, ema=.998,
                   weight_decay=.01, autocast=fast_precision(), checkpoint=RUNS / "pixel-gpt.safetensors")
    for _ in followed(run, "pixel-gpt"):
        pass
    about = {"recipe": "drawing.pixel_gpt", "seed": 0, "steps": steps, "machine": machine(),
             "minutes": round(run.logs[-1].seconds / 60, 1)}
    weights.save(folder / "pixel-gpt.safetensors", run.averaged, dtype=torch.float16, about=about)
    measured(folder / "pixel-gpt.safetensors", lambda model: drawing(model, n))


@torch.no_grad()
def drawing(model: PixelGPT, n: int = 1000, seed: int = 2) -> dict:
    """Bits a picture against the least possible, and how many complete captions are drawn right."""
    train, generator = single("train"), rng("drawing", seed)
    scenes = train[torch.randint(len(train), (n,), generator=generator)]
    told, codes = captions.write(scenes, generator), to_codes(render(scenes, 16), model.palette)
    bits = torch.cat([model.bits(encode(told[i:i + 50]), codes[i:i + 50]) for i in range(0, n, 50)])
    out = {"bits a picture": round(float(bits.mean()), 2), "standard error": round(float(bits.std() / n ** .5), 2),
           "least possible": round(float(open_bits(told, train).mean()), 2)}
    for split in ("train", "held out"):
        world = single(split)
        asked = captions.write(world[torch.randint(len(world), (n,), generator=generator)], generator, complete=True)
        drawn = torch.cat([model.paint(asked[i:i + 50], seed=seed, first=i) for i in range(0, n, 50)])
        out[f"right, {split}"] = str(prompt_accuracy(drawn, asked)["right"])
    return out


def open_bits(told: list[str], world: Scenes) -> Float[Tensor, "n"]:
    """log2 of the number of scenes of the world that each caption is right for."""
    every = list(world)
    return torch.tensor([sum(captions.matches(s, y) for s in every) for y in told]).log2()


# --- grey pictures: the p pixels before in a linear relation, the same in another relation, all pixels before ---------

LEVELS = 8


def grey_world() -> tuple[Scenes, Tensor, Tensor]:
    """The 216 scenes of `single` with a white thing on black or grey, the rising greys [k 3], the codes [n 256]."""
    world = single("train")
    ground = [list(BACKGROUNDS).index(name) for name in ("black", "grey")]
    white = world.colour[:, 0] == list(COLOURS).index("white")
    world = world[white & torch.isin(world.background, torch.tensor(ground))]
    pictures = render(world, 16)
    greys = palette(pictures, LEVELS).sort(0)[0]
    return world, greys, to_codes(pictures, greys)


def grey(folder: Path = weights.TRAINED, seeds: int = 3, steps: int = 1000, n: int = 200) -> None:
    """grey.json: bits a picture, and legal pictures among n drawn, of four autoregressive models, for some seeds."""
    rows = [row for seed in range(seeds) for row in compared(seed, steps, n)]
    about = {"recipe": "drawing.grey", "steps": steps, "machine": machine(torch.float32), "date": str(date.today()),
             "rows": rows}
    write(folder / "grey.json", json.dumps(about, indent=1).encode())


def compared(seed: int, steps: int, n: int) -> list[dict]:
    """The rows of one seed."""
    _, greys, codes = grey_world()
    x, noise = greys[codes][..., 0], torch.special.ndtri(dice(seed, n).clamp(1e-6, 1 - 1e-6))
    a, std = ar.linear_ar(x, 34)
    std = min((std * f / 10 for f in range(5, 21)), key=lambda s: float(ar.linear_bits(x, greys[:, 0], a, s).mean()))
    drawn = ar.linear_draw(a, std, noise)[..., None].expand(-1, -1, 3)
    return [row("linear", seed, ar.linear_bits(x, greys[:, 0], a, std), drawn),
            *(networked(name, seed, steps, n) for name in NETWORKS)]


# Logits to which 34 pixels each add their own; any logits of 34 pixels; of all pixels. With the best of three rates.
NETWORKS = {"logistic": (lambda: CausalConvolution(LEVELS, d=0), .1),
            "convolution": (lambda: CausalConvolution(LEVELS), .016),
            "pixel gpt": (lambda: PixelGPT(PixelGPTConfig(colours=LEVELS, d=64, layers=2)), .008)}


def networked(name: str, seed: int, steps: int, n: int) -> dict:
    """The row of one network: trained without captions, its bits on all pictures, n pictures drawn."""
    world, greys, codes = grey_world()
    (build, lr), batches, silent = NETWORKS[name], written(world, codes, 16, seed), encode([""] * 16)
    model = made(build, seed)
    run = Training(model, model.loss, lambda step: batches(step)._replace(captions=silent), steps=steps, lr=lr,
                   warmup=50, seed=seed)
    for _ in followed(run, f"{name}, seed {seed}", every=200):
        pass
    with torch.no_grad():
        bits = model.bits(encode([""] * len(codes)), codes)
    *_, drawn = model.path([""] * n, dice(seed, n))
    return row(name, seed, bits, greys[drawn])


def dice(seed: int, n: int) -> Float[Tensor, "n d"]:
    """What n pictures are drawn with."""
    return torch.rand(n, 256, generator=rng("grey dice", seed))


def row(name: str, seed: int, bits: Float[Tensor, "m"], drawn: Float[Tensor, "b n 3"]) -> dict:
    """What is kept of one model: mean bits a picture, and how many of the pictures drawn the oracle reads."""
    side = round(drawn.shape[1] ** .5)
    legal = sum(scene is not None for scene in read(drawn.unflatten(1, (side, side)).movedim(-1, 1)))
    return {"model": name, "seed": seed, "bits": round(float(bits.mean()), 2), "legal": legal, "n": len(drawn)}


RECIPES = {"pixel-gpt": pixel_gpt, "grey": grey}
