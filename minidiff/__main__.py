"""The command line: minidiff paint "a red circle above a blue square" | edit PICTURE.png "a red star" | film "a ring" |
interpolate "a red circle" "a blue star" | train RECIPE | score WEIGHTS | list.
"""
import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from minidiff.captions import UnknownWord, encode


def paint(args: argparse.Namespace) -> None:
    """Paint a caption, save the pictures as one PNG, and the path from noise as a GIF where asked."""
    from minidiff import plot
    model, path = walk(args)
    plot.save_png(model.finish(iter(path[-1:])), args.output, columns=4, scale=128 // model.side)
    print(f"{args.n} pictures of {args.caption!r}: {args.output}")
    if args.film:
        save_film(model, path, args, args.film)


def film(args: argparse.Namespace) -> None:
    """Paint a caption, and save the path from noise alone."""
    save_film(*walk(args), args, args.output)


def walk(args: argparse.Namespace) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """The model, and all its steps from noise to the caption."""
    encode([args.caption])                                        # an unknown word is refused before anything is loaded
    model = loaded(args)
    if not args.caption.strip():
        print("an empty caption asks for nothing in particular, so the pictures are of anything")
    return model, list(model.path([args.caption] * args.n, scale=args.scale, steps=args.steps, seed=args.seed))


def loaded(args: argparse.Namespace) -> nn.Module:
    """The model, with the larger decoder where pictures of side 64 are asked for."""
    from minidiff import weights
    model = weights.load(args.weights)
    if args.side == 64:
        small, model.autoencoder = model.autoencoder, weights.load("latent-autoencoder-64")
        if not all(getattr(small, name).allclose(getattr(model.autoencoder, name)) for name in ("mean", "std")):
            raise ValueError(f"{args.weights} paints other codes than the decoder for side 64 reads: leave --side out")
    return model


def save_film(model: nn.Module, path: list[tuple[Tensor, Tensor]], args: argparse.Namespace, output: str) -> None:
    """The guesses of the picture on the way, as a GIF."""
    from minidiff import plot
    frames = [model.finish(iter([(z0, z0)])) for _, z0 in path]
    columns = min(4, math.isqrt(args.n - 1) + 1)
    plot.film(frames, alt=f"from noise to {args.caption}", columns=columns, most=args.steps).save(output)
    print(f"the way from noise to {args.caption!r}: {output}")


def edit(args: argparse.Namespace) -> None:
    """Paint a caption over the picture of a file."""
    from minidiff import plot
    encode([args.caption])
    model = loaded(args)
    pictures = read(args.picture, model.side).expand(args.n, -1, -1, -1)
    edited = model.edit(pictures, [args.caption] * args.n, args.strength, scale=args.scale, steps=args.steps,
                        seed=args.seed)
    plot.save_png(edited, args.output, columns=4, scale=128 // model.side)
    print(f"{args.n} pictures of {args.caption!r} out of {args.picture}: {args.output}")


def read(path: str, side: int) -> Float[Tensor, "1 3 h w"]:
    """A file's picture, on white where it is transparent; if it is k times as large, each k x k pixels become one."""
    try:
        with Image.open(path) as file:
            if file.mode[0] in "IF":
                raise ValueError("its grey levels have more than 8 bits")
            picture = Image.alpha_composite(Image.new("RGBA", file.size, "white"), file.convert("RGBA"))
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except Exception as error:                                    # from a damaged file a decoder may raise anything
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error
    if picture.width != picture.height or picture.width % side:
        raise ValueError(f"{path} has {picture.width} x {picture.height} pixels, but pictures are {side} x {side} or a "
                         f"whole multiple of that, such as {4 * side} x {4 * side}: cut it out or scale it")
    levels = np.array(picture.convert("RGB").reduce(picture.width // side))
    return torch.from_numpy(levels).permute(2, 0, 1)[None] / 127.5 - 1


def interpolate(args: argparse.Namespace) -> None:
    """Paint the way from one caption to another."""
    from minidiff import plot
    encode([args.caption, args.other])
    model = loaded(args)
    between = model.interpolate(args.caption, args.other, args.n, scale=args.scale, steps=args.steps, seed=args.seed)
    plot.save_png(between, args.output, columns=8, scale=128 // model.side)
    print(f"{args.n} pictures from {args.caption!r} to {args.other!r}: {args.output}")


def train(args: argparse.Namespace) -> None:
    """Run a recipe from nothing, or from its last checkpoint."""
    from minidiff import weights
    from minidiff.recipes import RECIPES
    from minidiff.recipes.about import RUNS
    if args.recipe not in RECIPES:
        raise ValueError(f"there is no recipe {args.recipe!r}; there are {', '.join(RECIPES)}")
    checkpoint = RUNS / f"{args.recipe}.safetensors"
    if checkpoint.exists() and not args.resume:
        raise ValueError(f"{checkpoint} holds an earlier run: add --resume to go on, or delete it to start anew")
    if args.resume and not checkpoint.exists():
        raise ValueError(f"there is no run to resume at {checkpoint.resolve()}: leave --resume out to start one")
    RECIPES[args.recipe](Path(args.folder or weights.TRAINED))


def score(args: argparse.Namespace) -> None:
    """Print the accuracy table of a text-to-image model, with 95 % intervals."""
    from minidiff import weights
    from minidiff.recipes.latent_diffusion import table
    for name, rates in table(weights.load(args.weights), args.n, "score", args.seed).items():
        print(f"{name:32s} right {rates['right']}")
        print("    " + ", ".join(f"{k} {100 * r.value:.1f} %" for k, r in rates.items() if k != "right"))


def show(args: argparse.Namespace) -> None:
    """List the shipped weights with what they reached."""
    from minidiff import weights
    for name in weights.names():
        about = weights.describe(name)
        minutes = about.get("minutes")
        minutes = sum(minutes) if isinstance(minutes, list) else minutes          # of some recipes one number a stage
        print(f"{name:22s} {about['class']:36s} {minutes} min on {about.get('machine')}")


def parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    top = argparse.ArgumentParser(prog="minidiff", description=__doc__)
    verbs = top.add_subparsers(required=True, metavar="paint | edit | film | interpolate | train | score | list")
    painting(verbs)
    verb = verbs.add_parser("train", help="make a weight file again, from nothing")
    verb.set_defaults(run=train)
    verb.add_argument("recipe", help="in this order: latent-autoencoder, clip, text-to-image")
    verb.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    verb.add_argument("--folder", help="where weights go and parts are found (the shipped ones' folder)")
    verb = verbs.add_parser("score", help="the accuracy table of a model")
    verb.set_defaults(run=score)
    verb.add_argument("weights", nargs="?", default="text-to-image")
    verb.add_argument("-n", type=positive, default=2000, help="captions of each kind (2000)")
    verb.add_argument("--seed", type=int, default=1, help="1 draws the captions of the shipped file's own table again")
    verbs.add_parser("list", help="the shipped models").set_defaults(run=show)
    return top


def painting(verbs: argparse._SubParsersAction) -> None:
    """The verbs that paint."""
    verb = verbs.add_parser("paint", help="a picture of a sentence")
    paints(verb, paint, 16, "painted.png")
    verb.add_argument("--film", help="a GIF of the way from noise to the pictures")
    verb = verbs.add_parser("edit", help="a picture painted over by a sentence")
    verb.add_argument("picture", help="a file of side 32 (or --side) or a multiple, such as `paint -n 1` writes")
    paints(verb, edit, 4, "edited.png")
    verb.add_argument("--strength", type=float, default=.7, help="0 keeps the picture, 1 forgets it (0.7)")
    paints(verbs.add_parser("film", help="the way from noise to a picture, as a GIF"), film, 1, "film.gif")
    verb = verbs.add_parser("interpolate", help="pictures from one sentence to another")
    paints(verb, interpolate, 8, "between.png")
    verb.add_argument("other", help="the sentence to end with")


def paints(verb: argparse.ArgumentParser, run: Callable, n: int, output: str) -> None:
    """The caption and the options that all of them have."""
    verb.set_defaults(run=run)
    verb.add_argument("caption", help='such as "a red circle above a blue square on black"')
    verb.add_argument("-n", type=positive, default=n, help=f"how many pictures ({n})")
    verb.add_argument("--scale", type=float, default=3., help="guidance: 1 is none (3)")
    verb.add_argument("--steps", type=positive, default=25, help="steps from noise to picture (25)")
    verb.add_argument("--seed", type=int, default=0, help="the same seed paints the same pictures (0)")
    verb.add_argument("-o", "--output", default=output, help=f"where the pictures go ({output})")
    verb.add_argument("--weights", default="text-to-image", help="a shipped model or a file")
    verb.add_argument("--side", type=int, choices=(32, 64), default=32, help="of a picture, in pixels (32)")


def positive(text: str) -> int:
    """A whole number above zero."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0, or 2 after a sentence that says what was wrong with what was asked for."""
    args = parser().parse_args(arguments)
    try:
        args.run(args)
    except (UnknownWord, ValueError, OSError) as error:
        print(f"minidiff: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as stop:                            # a training whose loss is not finite any more
        print(f"minidiff: {stop}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"\nminidiff: {stop or 'stopped'}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
