"""The command line: minidiff paint "a red circle above a blue square" | train RECIPE | score WEIGHTS | list."""
import argparse
import sys
from pathlib import Path

from minidiff.captions import UnknownWord


def paint(args: argparse.Namespace) -> None:
    """Paint a caption, save the pictures as one PNG, and the path from noise as a GIF where asked."""
    from minidiff import captions, plot, weights
    captions.encode([args.caption])                               # an unknown word is refused before anything is loaded
    model = weights.load(args.weights)
    told = [args.caption] * args.n
    path = list(model.path(told, scale=args.scale, steps=args.steps, seed=args.seed))
    pictures = model.autoencoder.decode(path[-1][0]).clamp(-1, 1)
    if not args.caption.strip():
        print("an empty caption asks for nothing in particular, so the pictures are of anything")
    plot.save_png(pictures, args.output, columns=4, scale=4)
    print(f"{args.n} pictures of {args.caption!r}: {args.output}")
    if args.film:
        frames = [model.autoencoder.decode(x0).clamp(-1, 1) for _, x0 in path]
        plot.film(frames, alt=f"from noise to {args.caption}", most=args.steps).save(args.film)
        print(f"the way there: {args.film}")


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
        print(f"{name:20s} {about['class']:36s} {minutes} min on {about.get('machine')}")


def parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    top = argparse.ArgumentParser(prog="minidiff", description=__doc__)
    verbs = top.add_subparsers(required=True, metavar="paint | train | score | list")
    verb = verbs.add_parser("paint", help="a picture of a sentence")
    verb.set_defaults(run=paint)
    verb.add_argument("caption", help='such as "a red circle above a blue square on black"')
    verb.add_argument("-n", type=positive, default=16, help="how many pictures (16)")
    verb.add_argument("--scale", type=float, default=3., help="guidance: 1 is none (3)")
    verb.add_argument("--steps", type=positive, default=25, help="steps from noise to picture (25)")
    verb.add_argument("--seed", type=int, default=0, help="the same seed paints the same pictures (0)")
    verb.add_argument("-o", "--output", default="painted.png", help="where the pictures go (painted.png)")
    verb.add_argument("--film", help="a GIF of the way from noise to the pictures")
    verb.add_argument("--weights", default="text-to-image", help="a shipped model or a file")
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
